// Transport and timeline: the scrubber, and one row per object with its frames and keyframes.

import { h, icon, iconButton, keyed, set } from './dom.js';

export class Timeline {
  #next = 0;

  constructor(store, api) {
    this.store = store;
    this.api = api;
    this.play = iconButton('play', 'Play', () => store.set({ playing: !store.playing }), 'space');
    this.play.classList.add('primary');
    this.loop = iconButton('loop', 'Repeat', () => store.set({ loop: !store.loop }));
    this.onion = iconButton('onion', 'Onion skin: outlines of the frames around', () => store.set({ onion: !store.onion }), 'O');
    this.count = h('output', { class: 'frame-count' });
    this.scrubber = h('input', {
      type: 'range',
      class: 'scrubber',
      min: 0,
      step: 1,
      'aria-label': 'Frame',
      oninput: (event) => store.set({ frame: Number(event.target.value), playing: false }),
    });
    this.rows = h('div', { class: 'rows' });
    this.ruler = h('div', { class: 'ruler', 'aria-hidden': 'true' });
    this.head = h('div', { class: 'playhead', 'aria-hidden': 'true' });
    this.element = h(
      'section',
      { class: 'timeline', 'aria-label': 'Timeline' },
      h(
        'div',
        { class: 'transport', role: 'group', 'aria-label': 'Playback' },
        iconButton('first', 'First frame', () => store.go(0), 'Home'),
        iconButton('previous', 'Previous frame', () => store.step(-1), ','),
        this.play,
        iconButton('next', 'Next frame', () => store.step(1), '.'),
        iconButton('last', 'Last frame', () => store.go(store.about.frames - 1), 'End'),
        this.count,
        h('span', { class: 'spacer' }),
        this.loop,
        this.onion,
      ),
      h('div', { class: 'tracks' }, h('div', { class: 'time' }, this.scrubber, this.ruler), this.rows, this.head),
    );
    store.on(['about'], () => store.about && this.#rule());
    store.on(['frame', 'about', 'playing', 'loop', 'onion'], () => store.about && this.#show());
    store.on(['state', 'selected'], () => store.about && this.#rebuild());
    store.on(['playing'], () => store.playing && this.#run());
  }

  #rule() {
    const { frames } = this.store.about;
    this.scrubber.max = frames - 1;
    this.element.style.setProperty('--frames', frames);
    const every = Math.max(1, Math.ceil(frames / 16));
    const ticks = Array.from({ length: frames }, (_, frame) => frame).filter((frame) => frame % every === 0);
    this.ruler.replaceChildren(
      ...ticks.map((frame) => h('span', { style: `left:${this.#left(frame)}%` }, String(frame))),
    );
  }

  /** Place of the middle of a frame, in percent of the track. */
  #left(frame) {
    return ((frame + 0.5) / this.store.about.frames) * 100;
  }

  #show() {
    const { store } = this;
    const { frames, fps } = store.about;
    this.scrubber.value = store.frame;
    this.scrubber.setAttribute('aria-valuetext', `frame ${store.frame} of ${frames}`);
    this.count.replaceChildren(
      `${store.frame} / ${frames - 1}`,
      h('span', { class: 'seconds' }, ` · ${(store.frame / fps).toFixed(2)} s`),
    );
    this.play.replaceChildren(icon(store.playing ? 'pause' : 'play'));
    this.play.setAttribute('aria-label', store.playing ? 'Pause' : 'Play');
    this.loop.setAttribute('aria-pressed', store.loop);
    this.onion.setAttribute('aria-pressed', store.onion);
    this.head.style.setProperty('--at', (store.frame + 0.5) / frames);
  }

  #rebuild() {
    const { store } = this;
    keyed(
      this.rows,
      store.objects,
      (object) => object.id,
      () => h('div', { class: 'row' }, h('button', { type: 'button', class: 'row-name' }), h('div', { class: 'track' })),
      (row, object) => {
        const [name, track] = row.children;
        row.style.setProperty('--color', store.color(object.id));
        row.classList.toggle('selected', object.id === store.selected);
        name.textContent = object.name || `object ${object.id}`;
        name.onclick = () => store.set({ selected: object.id });
        track.onpointerdown = (event) => this.#scrub(event, track, object.id);
        track.onpointermove = (event) => event.buttons && this.#scrub(event, track, object.id);
        track.replaceChildren(...this.#bars(object), ...this.#keys(object, track));
      },
    );
  }

  #bars(object) {
    const { frames } = this.store.about;
    return object.spans.map(([from, to]) => {
      const place = `left:${(from / frames) * 100}%;width:${((to + 1 - from) / frames) * 100}%`;
      return h('span', { class: 'bar', style: place });
    });
  }

  /** Keyframes: click to go there, drag to another frame, Delete to remove. */
  #keys(object, track) {
    const { store, api } = this;
    return (store.state.edits ?? []).flatMap((edit, index) => {
      if (!edit.changes.includes(object.id)) return [];
      if (edit.kind === 'follow') {
        const { frames } = store.about;
        const [from, to] = [edit.start ?? 0, edit.stop ?? frames - 1];
        const place = `left:${this.#left(from)}%;width:${((to - from) / frames) * 100}%`;
        return [h('span', { class: 'span', style: place, title: edit.title })];
      }
      if (edit.keys.length > 24) return [];
      return edit.keys.map((frame) =>
        h('button', {
          type: 'button',
          class: 'key',
          style: `left:${this.#left(frame)}%`,
          'aria-label': `Keyframe at frame ${frame}: ${edit.title}. Delete removes it.`,
          title: `${edit.title}, frame ${frame}`,
          onclick: () => store.set({ frame, selected: object.id }),
          onkeydown: (event) => {
            if (event.key !== 'Delete' && event.key !== 'Backspace') return;
            event.stopPropagation();
            api.change('keyframe', { index, frame });
          },
          onpointerdown: (event) => {
            event.stopPropagation();
            event.target.setPointerCapture(event.pointerId);
          },
          onpointermove: (event) => {
            if (event.buttons) event.target.style.left = `${this.#left(this.#frameAt(event, track))}%`;
          },
          onpointerup: (event) => {
            const to = this.#frameAt(event, track);
            if (to !== frame) api.change('keyframe', { index, frame, to });
          },
        }),
      );
    });
  }

  #frameAt(event, track) {
    const { left, width } = track.getBoundingClientRect();
    const { frames } = this.store.about;
    return Math.max(0, Math.min(frames - 1, Math.floor(((event.clientX - left) / width) * frames)));
  }

  #scrub(event, track, id) {
    this.store.set({ frame: this.#frameAt(event, track), selected: id, playing: false });
  }

  /** Play at the clip's rate. */
  #run() {
    const { store } = this;
    const wait = 1000 / store.about.fps;
    if (store.frame === store.about.frames - 1) store.go(0);
    this.#next = performance.now() + wait;
    const tick = (now) => {
      if (!store.playing) return;
      if (now >= this.#next) {
        this.#next = Math.max(this.#next + wait, now);
        const last = store.frame === store.about.frames - 1;
        if (last && !store.loop) return store.set({ playing: false });
        store.set({ frame: last ? 0 : store.frame + 1 });
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
}
