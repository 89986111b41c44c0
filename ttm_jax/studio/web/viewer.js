// Videos beside, over and against the picture and the trajectory, in step with the timeline.

import { h, keyed, labelled, set } from './dom.js';

const KEPT = 8; // Videos and trajectories that stay decoded.

export class Viewer {
  #sheets = new Map(); // 'NUMBER/WHAT' -> promise of {bitmap, columns}.
  #ready = new Map();
  #picture = null;

  constructor(store, api) {
    this.store = store;
    this.api = api;
    this.figures = h('div', { class: 'figures' });
    this.slider = h('input', {
      type: 'range',
      min: 0,
      max: 100,
      class: 'divider',
      'aria-label': 'Divider between picture and video',
      oninput: (event) => store.set({ divider: Number(event.target.value) }),
    });
    this.others = h('select', {
      onchange: (event) => store.set({ other: Number(event.target.value) }),
    });
    this.compare = labelled('Compare with', this.others, 'compare');
    this.element = h('div', { class: 'viewer' }, this.figures, this.slider, this.compare);
    store.on(['view', 'render', 'other', 'state'], () => this.#show());
    store.on(['frame', 'divider'], () => this.#draw());
  }

  get #panes() {
    const { store } = this;
    const [own, other] = [store.render, store.other];
    return {
      edit: [],
      side: [['picture', 'Picture'], [`${own}/trajectory`, 'Trajectory'], [`${own}/video`, 'Video']],
      slider: [['slider', 'Picture | Video']],
      overlay: [[`${own}/overlay`, 'Video with the trajectory']],
      two: [[`${own}/video`, this.#name(own)], [`${other}/video`, this.#name(other)]],
    }[store.view];
  }

  #name(number) {
    const found = this.store.state.renders.find((render) => render.id === number);
    return found ? `Video ${number}: ${found.quality}, seed ${found.seed}, ${found.steps} steps` : 'Video';
  }

  async #show() {
    const { store } = this;
    // Numbers begin anew with a picture, and where the server was restarted.
    const numbers = new Set(store.state.renders.map((render) => String(render.id)));
    for (const what of this.#sheets.keys()) if (!numbers.has(what.split('/')[0])) this.#drop(what);
    const viewing = store.view !== 'edit' && store.state.renders.length > 0;
    this.element.hidden = !viewing;
    if (!viewing) return;
    this.slider.hidden = store.view !== 'slider';
    this.compare.hidden = store.view !== 'two';
    const rest = store.state.renders.filter((render) => render.id !== store.render);
    if (store.view === 'two' && !rest.some((render) => render.id === store.other)) {
      if (!rest.length) return store.set({ view: 'side' });
      store.set({ other: rest.at(-1).id });
    }
    keyed(this.others, rest, (each) => each.id, () => h('option'), (option, each) => {
      set(option, { value: String(each.id), textContent: this.#name(each.id), selected: each.id === store.other });
    });
    const { width, height } = store.about;
    // Several pixels for one of the video, so that the divider is thin.
    this.scale = Math.max(1, Math.round(720 / Math.max(width, height)));
    const size = { width: width * this.scale, height: height * this.scale };
    keyed(
      this.figures,
      this.#panes,
      ([what]) => what,
      () => h('figure', {}, h('canvas', { role: 'img', ...size }), h('figcaption')),
      (figure, [what, name]) => {
        figure.children[0].setAttribute('aria-label', name);
        figure.children[1].textContent = name;
      },
    );
    this.figures.style.setProperty('--count', this.#panes.length);
    await Promise.all(this.#needed().map((what) => this.#load(what)));
    this.#draw();
  }

  #needed() {
    const { render, other, view } = this.store;
    return {
      side: ['picture', `${render}/trajectory`, `${render}/video`],
      slider: ['picture', `${render}/video`],
      overlay: [`${render}/overlay`],
      two: [`${render}/video`, `${other}/video`],
    }[view];
  }

  async #load(what) {
    if (what === 'picture') {
      if (this.#picture?.version === this.store.state.picture) return;
      const response = await this.api.get('picture');
      if (response) this.#picture = { version: this.store.state.picture, bitmap: await createImageBitmap(await response.blob()) };
      return;
    }
    if (!this.#sheets.has(what)) this.#sheets.set(what, this.#fetch(what));
    await this.#sheets.get(what);
    for (const old of this.#sheets.keys()) {
      if (this.#sheets.size <= KEPT) break;
      if (!this.#needed().includes(old)) this.#drop(old);
    }
  }

  #drop(what) {
    this.#sheets.delete(what);
    this.#ready.get(what)?.bitmap.close();
    this.#ready.delete(what);
  }

  async #fetch(what) {
    const response = await this.api.get(`render/${what}`);
    if (!response) return this.#sheets.delete(what);
    const columns = Number(response.headers.get('X-Columns'));
    return this.#ready.set(what, { bitmap: await createImageBitmap(await response.blob()), columns });
  }

  /** Draw the current frame of a sheet into a canvas, from column x0 on. */
  #frame(context, what, x0 = 0) {
    const sheet = this.#ready.get(what);
    const { width, height } = this.store.about;
    if (!sheet) return;
    const { frame } = this.store;
    const [x, y] = [(frame % sheet.columns) * width, Math.floor(frame / sheet.columns) * height];
    context.drawImage(sheet.bitmap, x + x0, y, width - x0, height, x0, 0, width - x0, height);
  }

  #draw() {
    const { store } = this;
    if (store.view === 'edit' || this.element.hidden) return;
    const { width, height } = store.about;
    for (const figure of this.figures.children) {
      const what = figure.dataset.key;
      const context = figure.children[0].getContext('2d');
      context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
      context.imageSmoothingEnabled = !what.endsWith('trajectory');
      if (what === 'picture' || what === 'slider') {
        if (this.#picture?.bitmap) context.drawImage(this.#picture.bitmap, 0, 0, width, height);
      }
      if (what === 'slider') {
        const x = Math.round((width * store.divider) / 100);
        if (x < width) this.#frame(context, `${store.render}/video`, x);
        context.fillStyle = '#fff';
        context.fillRect(x - 1.5 / this.scale, 0, 3 / this.scale, height);
      } else if (what !== 'picture') this.#frame(context, what);
    }
  }
}
