// The editor: the element <ttm-studio>, put together from its parts.

import { Api } from './api.js';
import { h, icon, iconButton, labelled, set } from './dom.js';
import { editPanel } from './edit.js';
import { addKeys } from './keys.js';
import { proposePanel } from './propose.js';
import { renderPanel } from './render.js';
import { fileButton, scenePanel, takePictures, welcome } from './scene.js';
import { Stage } from './stage.js';
import { Store } from './store.js';
import { Timeline } from './timeline.js';
import { Viewer } from './viewer.js';

const TOOLS = [
  ['move', 'Move, scale, rotate', 'V'],
  ['path', 'Draw a path', 'P'],
  ['brush', 'Brush', 'B'],
  ['eraser', 'Eraser', 'E'],
  ['lasso', 'Lasso', 'L'],
  ['fill', 'Fill', 'F'],
  ['click', 'Segment by clicks: Shift for outside, drag for a box', 'S'],
];
const VIEWS = [
  ['edit', 'Edit'],
  ['side', 'Side by side'],
  ['slider', 'Slider'],
  ['overlay', 'Overlay'],
  ['two', 'Two videos'],
];
const TABS = [['scene', 'Scene'], ['propose', 'Propose'], ['edit', 'Edit'], ['render', 'Render']];
const PAINTING = ['brush', 'eraser', 'lasso', 'fill'];

class TtmStudio extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const root = this.attachShadow({ mode: 'open' });
    const store = new Store();
    const api = new Api(store);
    Object.assign(this, { store, api });
    const style = h('link', { rel: 'stylesheet', href: new URL('studio.css', import.meta.url) });
    const app = h('div', { class: 'app', hidden: true });
    root.append(style, app);
    const help = addKeys(store, api, root);
    const stage = new Stage(store, api);
    this.stage = stage;
    const viewer = new Viewer(store, api);
    const begin = welcome(store, api);
    const center = h('div', { class: 'view' }, begin, stage.element, viewer.element);
    const [tabs, panels] = sidebars(store, api);
    const main = h(
      'main',
      { class: 'center', 'aria-label': 'Canvas' },
      toolbar(store),
      center,
      notes(store),
      new Timeline(store, api).element,
    );
    app.append(header(store, api, help), ...panels, main, tabs, messages(store));
    takePictures(center, api);
    store.on(['about'], () => {
      if (store.about) app.style.setProperty('--ratio', store.about.width / store.about.height);
    });
    store.on(['state', 'view'], () => {
      app.classList.toggle('empty', !store.hasPicture);
      begin.hidden = store.hasPicture;
      stage.element.hidden = !store.hasPicture || store.view !== 'edit';
    });
    store.on(['state'], () => {
      if (!store.object()?.layer && store.tool === 'move') {
        const first = store.objects.find((object) => object.layer);
        if (first) store.set({ selected: first.id });
      }
    });
    let picture = null;
    store.on(['state'], () => {
      if (store.state.picture === picture) return;
      picture = store.state.picture;
      store.set({ frame: 0, view: 'edit', render: null, playing: false, selected: store.objects[0]?.id ?? 1 });
      if (picture !== null && !store.objects.length) store.set({ tool: 'brush', target: 'objects' });
      if (picture !== null) store.set({ tab: store.objects.length ? 'propose' : 'scene' });
    });
    const ready = new Promise((done) => style.addEventListener('load', done));
    Promise.all([api.start(), ready]).then(() => {
      app.hidden = false;
      this.dataset.ready = Math.round(performance.now());
    });
  }
}

function header(store, api, help) {
  const undo = iconButton('undo', 'Undo', () => api.change('undo'), 'Ctrl+Z');
  const redo = iconButton('redo', 'Redo', () => api.change('redo'), 'Ctrl+Shift+Z');
  const model = h('span', { class: 'model' });
  const object = h('select', {});
  const bring = (kind, text, accept) => fileButton(text, accept, (file) => api.upload(kind(), file), 'item');
  const open = menu('Open', 'upload', [
    bring(() => 'project', 'Project file', '.zip'),
    bring(() => 'import/boxes', 'Boxes (JSON)', '.json'),
    bring(() => 'import/tracks', 'Point tracks (JSON)', '.json'),
    bring(() => `import/clip?object=${object.value}`, 'Cut-and-drag clip (video, GIF, zip of masks)', 'video/*,image/gif,image/webp,.zip'),
    labelled('The clip moves', object, 'item-field'),
  ]);
  const get = (kind, text) => h('button', { type: 'button', class: 'item', onclick: () => api.download(`export/${kind}`) }, text);
  const save = menu('Save', 'download', [
    get('project', 'Project file'),
    get('png', 'Trajectory as palette PNGs'),
    get('rle', 'Trajectory as SA-V run lengths (JSON)'),
    get('tracks', 'Trajectory as point tracks (Wan-Move, ATI)'),
  ]);
  store.on(['about'], () => {
    if (!store.about) return;
    const { name, frames, width, height, fps, max_objects: most } = store.about;
    model.textContent = `${name} · ${frames} frames · ${width} × ${height} · ${fps} fps`;
    model.title = `At most ${most} objects`;
    object.replaceChildren(
      ...Array.from({ length: most }, (_, i) => h('option', { value: String(i + 1) }, `object ${i + 1}`)),
    );
  });
  store.on(['state'], () => {
    for (const [button, what, verb] of [[undo, store.state.undo, 'Undo'], [redo, store.state.redo, 'Redo']]) {
      button.disabled = !what;
      set(button, { title: what ? `${verb}: ${what}` : verb });
    }
    save.querySelector('summary').classList.toggle('off', !store.hasPicture);
  });
  const logo = h('img', { src: new URL('icon.svg', import.meta.url), alt: '', class: 'logo' });
  return h(
    'header',
    {},
    logo,
    h('h1', {}, 'Studio'),
    model,
    h('span', { class: 'spacer' }),
    undo,
    redo,
    open,
    save,
    iconButton('help', 'Keyboard shortcuts', help, '?'),
  );
}

/** Return a button that opens a list. */
function menu(text, name, items) {
  const element = h(
    'details',
    { class: 'menu' },
    h('summary', {}, icon(name), h('span', {}, text)),
    h('div', { class: 'items' }, ...items),
  );
  const close = (event) => {
    if (!event.composedPath().includes(element)) element.open = false;
  };
  element.addEventListener('toggle', () => {
    if (element.open) document.addEventListener('pointerdown', close);
    else document.removeEventListener('pointerdown', close);
  });
  element.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    element.open = false;
    element.firstChild.focus();
  });
  element.addEventListener('click', (event) => {
    if (event.target.matches('button.item')) element.open = false;
  });
  return element;
}

function toolbar(store) {
  const tools = TOOLS.map(([name, label, key]) => {
    const button = iconButton(name, label, () => store.set({ tool: name, view: 'edit' }), key);
    button.dataset.tool = name;
    return button;
  });
  const radius = h('input', { type: 'range', min: 0.5, max: 40, step: 0.5, oninput: () => store.set({ radius: Number(radius.value) }) });
  const tolerance = h('input', { type: 'range', min: 0, max: 300, step: 5, oninput: () => store.set({ tolerance: Number(tolerance.value) }) });
  const size = labelled('Size', radius, 'inline');
  const close = labelled('Tolerance', tolerance, 'inline');
  const target = h(
    'select',
    { onchange: () => store.set({ target: target.value }) },
    h('option', { value: 'objects' }, 'objects of the picture'),
    h('option', { value: 'frame' }, 'mask of this frame'),
  );
  const where = labelled('Paint', target, 'inline');
  const views = h(
    'div',
    { class: 'views', role: 'group', 'aria-label': 'View' },
    ...VIEWS.map(([name, label]) =>
      h('button', { type: 'button', 'data-view': name, onclick: () => view(store, name) }, label),
    ),
  );
  store.on(['about'], () => {
    if (!store.about) return;
    radius.max = Math.max(4, Math.round(Math.min(store.about.height, store.about.width) / 6));
    store.set({ radius: Math.max(1, Math.round(Math.min(store.about.height, store.about.width) / 32)) });
    radius.value = store.radius;
    tools.at(-1).hidden = !store.about.by_click;
  });
  store.on(['tool', 'target', 'view'], () => {
    for (const button of tools) button.setAttribute('aria-pressed', button.dataset.tool === store.tool && store.view === 'edit');
    const painting = PAINTING.includes(store.tool) && store.view === 'edit';
    where.hidden = !painting;
    size.hidden = !painting || !['brush', 'eraser'].includes(store.tool);
    close.hidden = !painting || store.tool !== 'fill';
    target.value = store.target;
    if (painting && store.target === 'objects') store.set({ frame: 0, playing: false });
  });
  store.on(['frame'], () => {
    // Whoever leaves frame 0 while painting means the frame that is shown.
    if (store.frame && PAINTING.includes(store.tool) && store.target === 'objects') store.set({ tool: 'move' });
  });
  store.on(['state', 'view'], () => {
    const count = store.state.renders.length;
    for (const button of views.children) {
      const name = button.dataset.view;
      button.setAttribute('aria-pressed', name === store.view);
      button.disabled = name !== 'edit' && count < (name === 'two' ? 2 : 1);
    }
  });
  return h('div', { class: 'toolbar' }, h('div', { class: 'tools', role: 'toolbar', 'aria-label': 'Tools' }, ...tools), where, size, close, h('span', { class: 'spacer' }), views);
}

function view(store, name) {
  const { renders } = store.state;
  const render = renders.some((each) => each.id === store.render) ? store.render : (renders.at(-1)?.id ?? null);
  store.set({ render, view: name });
}

function notes(store) {
  const list = h('ul', { class: 'notes', role: 'status', 'aria-label': 'Notes on the motion' });
  store.on(['state'], () => {
    list.replaceChildren(...(store.state.notes ?? []).map((note) => h('li', {}, note)));
    list.hidden = !store.state.notes?.length;
  });
  return list;
}

/** Return the right side bar with its tabs, and the scene, which wide windows show at the left. */
function sidebars(store, api) {
  const contents = {
    scene: scenePanel(store, api),
    propose: proposePanel(store, api),
    edit: editPanel(store, api),
    render: renderPanel(store, api),
  };
  const panels = Object.fromEntries(
    TABS.map(([name, label]) => [
      name,
      h('section', { class: `panel panel-${name}`, id: `panel-${name}`, 'aria-label': label }, contents[name]),
    ]),
  );
  const buttons = TABS.map(([name, label]) =>
    h(
      'button',
      {
        type: 'button',
        role: 'tab',
        id: `tab-${name}`,
        'aria-controls': `panel-${name}`,
        class: `tab-${name}`,
        onclick: () => store.set({ tab: name }),
        onkeydown: (event) => {
          const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (!by) return;
          event.stopPropagation();
          const shown = buttons.filter((button) => button.offsetParent);
          const next = shown[(shown.indexOf(event.target) + by + shown.length) % shown.length];
          next.focus();
          next.click();
        },
      },
      label,
    ),
  );
  const wide = matchMedia('(min-width: 900px)');
  const show = () => {
    const chosen = wide.matches && store.tab === 'scene' ? 'propose' : store.tab;
    for (const [index, [name]] of TABS.entries()) {
      const on = name === chosen;
      set(buttons[index], { 'aria-selected': String(on), tabindex: on ? 0 : -1 });
      panels[name].hidden = !on && !(wide.matches && name === 'scene');
    }
  };
  wide.addEventListener('change', show);
  store.on(['tab'], show);
  const side = h(
    'div',
    { class: 'side' },
    h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Steps' }, ...buttons),
    panels.propose,
    panels.edit,
    panels.render,
  );
  return [side, [panels.scene]];
}

function messages(store) {
  const area = h('div', { class: 'messages' });
  const polite = h('div', { role: 'status', 'aria-live': 'polite' });
  const urgent = h('div', { role: 'alert' });
  area.append(urgent, polite);
  store.addEventListener('message', ({ detail: { text, kind } }) => {
    const message = h('div', { class: `message ${kind}` }, h('span', {}, text));
    message.append(iconButton('close', 'Dismiss', () => message.remove()));
    const place = kind === 'error' ? urgent : polite;
    place.append(message);
    while (area.querySelectorAll('.message').length > 4) area.querySelector('.message').remove();
    setTimeout(() => message.remove(), kind === 'error' ? 15_000 : 6_000);
  });
  return area;
}

customElements.define('ttm-studio', TtmStudio);
