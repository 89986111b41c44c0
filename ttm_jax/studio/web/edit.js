// Edits of the selected object, the camera, and the list of edits.

import { h, iconButton, keyed, labelled, set } from './dom.js';
import { speedCurve } from './speed.js';

export function editPanel(store, api) {
  const edit = (kind, values = {}) => api.change('edit', { edit: { kind, object: store.selected, ...values } });
  const handle = (kind, by) => api.change('handle', { kind, object: store.selected, frame: store.frame, by });
  const number = (value, props = {}) => h('input', { type: 'number', value: String(value), ...props });
  const button = (text, onclick, props = {}) => h('button', { type: 'button', onclick, ...props }, text);

  const title = h('h3', { class: 'chosen' });
  const scale = number(100, { min: 1, max: 2000, step: 5 });
  const turn = number(0, { min: -360, max: 360, step: 5 });
  const from = number(0, { min: 0 });
  const to = number(0, { min: 0 });
  const speed = number(1, { min: 0.1, max: 10, step: 0.1 });
  const delay = number(0, { min: 0 });
  const panX = number(0);
  const panY = number(0);
  const zoom = number(100, { min: 5, max: 1000, step: 5 });
  const pinned = h('p', { class: 'hint' });
  const list = h('ol', { class: 'edits', 'aria-label': 'Edits' });
  const none = h('p', { class: 'hint' }, 'Drag an object on the canvas, or draw its path.');

  const own = h(
    'div',
    { class: 'groups' },
    group(
      'In this frame',
      h('div', { class: 'fields' }, labelled('Scale %', scale), labelled('Rotate °', turn)),
      h(
        'div',
        { class: 'buttons' },
        button('Scale', () => handle('scale', Number(scale.value) / 100)),
        button('Rotate', () => handle('rotate', Number(turn.value))),
        button('Flip ↔', () => edit('flip', { axis: 'horizontal' }), { 'aria-label': 'Flip left and right' }),
        button('Flip ↕', () => edit('flip', { axis: 'vertical' }), { 'aria-label': 'Flip top and bottom' }),
      ),
    ),
    group(
      'Time',
      h('div', { class: 'fields' }, labelled('From frame', from), labelled('To frame', to)),
      h(
        'div',
        { class: 'buttons' },
        button('Hide', () => edit('hide', range())),
        button('Hide from here', () => edit('hide', { start: store.frame }), { title: 'H' }),
        button('Enter here', () => edit('hide', { start: 0, stop: Math.max(0, store.frame - 1) })),
        button('Hold from here', () => edit('hold', { from_frame: store.frame })),
        button('Pin as here', () => edit('pin', { frame: store.frame })),
      ),
      h('div', { class: 'fields' }, labelled('Speed factor', speed), labelled('Delay, frames', delay)),
      h(
        'div',
        { class: 'buttons' },
        button('Retime', () => edit('retime', { times: times(1) })),
        button('Reverse', () => edit('retime', { times: times(-1) })),
      ),
    ),
    group(
      'Depth and copies',
      h(
        'div',
        { class: 'buttons' },
        button('To front', () => edit('depth', { step: 'front' })),
        button('Forward', () => edit('depth', { step: 'forward' })),
        button('Backward', () => edit('depth', { step: 'backward' })),
        button('To back', () => edit('depth', { step: 'back' })),
        button('Duplicate', () => duplicate(store, api), { title: 'D' }),
        button('Delete', () => edit('delete'), { class: 'danger' }),
      ),
    ),
  );
  const camera = group(
    'Camera',
    pinned,
    h('div', { class: 'fields' }, labelled('Pan x', panX), labelled('Pan y', panY), labelled('Zoom %', zoom)),
    h('div', { class: 'buttons' }, button('Move camera until this frame', moveCamera)),
  );
  const element = h('div', { class: 'panel-content' }, h('h3', {}, 'Edits'), none, list, title, own, camera);
  store.on(['state', 'selected', 'frame', 'about'], () => store.about && show());
  return element;

  function group(name, ...children) {
    return h('fieldset', {}, h('legend', {}, name), ...children);
  }

  function range() {
    return { start: Number(from.value), stop: Number(to.value) };
  }

  /** Keyframes of the source frame: after the delay at the speed, until the clip's end. */
  function times(direction) {
    const last = store.about.frames - 1;
    const wait = Math.min(last, Math.max(0, Number(delay.value)));
    const keys = {};
    for (let frame = 0; frame <= last; frame++) {
      const way = Math.min(last, Math.max(0, frame - wait) * Number(speed.value));
      keys[frame] = direction > 0 ? way : last - way;
    }
    return keys;
  }

  function moveCamera() {
    const objects = store.state.pinned;
    if (!objects.length) return store.say('The camera moves what stands still in the scene: pin objects first.', 'error');
    const at = String(store.frame || store.about.frames - 1);
    const values = { smooth: true };
    if (Number(panX.value) || Number(panY.value)) values.pan = { 0: [0, 0], [at]: [Number(panX.value), Number(panY.value)] };
    if (Number(zoom.value) !== 100) values.zoom = { 0: 1, [at]: Number(zoom.value) / 100 };
    if (!values.pan && !values.zoom) return store.say('Give a pan or a zoom.', 'error');
    return api.change('edit', { edit: { kind: 'camera', objects, ...values } });
  }

  function show() {
    const object = store.object();
    title.textContent = object ? object.name || `object ${object.id}` : 'No object';
    title.style.setProperty('--color', store.color(store.selected));
    for (const field of own.children) field.disabled = !object?.layer;
    const last = store.about.frames - 1;
    for (const field of [from, to]) field.max = last;
    delay.max = last;
    if (!to.dataset.set) {
      to.value = String(last);
      to.dataset.set = 'yes';
    }
    const names = (store.state.pinned ?? []).map((id) => store.object(id)?.name || id).join(', ');
    pinned.textContent = names ? `Moves what is pinned: ${names}.` : 'Moves what is pinned: nothing yet.';
    const edits = store.state.edits ?? [];
    none.hidden = edits.length > 0;
    keyed(list, edits, (each, index) => `${edits.indexOf(each)} ${each.title}`, () => h('li'), (item, each, index) => {
      const text = JSON.stringify(each);
      if (item.dataset.text === text) return;
      item.dataset.text = text;
      item.replaceChildren(
        h('span', {}, each.title),
        iconButton('close', `Remove: ${each.title}`, () => api.change('remove_edit', { index })),
        ...(each.kind === 'follow' ? [pathFields(each, index)] : []),
      );
      set(item, { style: `--color:${each.changes.length ? store.color(each.changes[0]) : 'transparent'}` });
    });
  }

  /** Speed and frames of a path. */
  function pathFields(each, index) {
    const last = store.about.frames - 1;
    const { title: _, keys: __, changes: ___, ...values } = each;
    const replace = (changed) => api.change('replace_edit', { index, edit: { ...values, ...changed } });
    const start = number(values.start ?? 0, { min: 0, max: last, onchange: () => replace({ start: Number(start.value) }) });
    const stop = number(values.stop ?? last, { min: 0, max: last, onchange: () => replace({ stop: Number(stop.value) }) });
    return h(
      'details',
      { class: 'path-fields', open: index === store.state.edits.length - 1 },
      h('summary', {}, 'Frames and speed'),
      h('div', { class: 'fields' }, labelled('From', start), labelled('To', stop)),
      speedCurve(values.speed, (curve) => replace({ speed: curve })),
    );
  }
}

/** Duplicate the selected object as the next free number, a little to the side. */
export async function duplicate(store, api) {
  const id = store.free;
  if (id === null) return store.say(`This model knows ${store.about.max_objects} objects: remove one first.`, 'error');
  const side = Math.round(store.about.width / 8);
  const edit = { kind: 'duplicate', object: store.selected, new: id, offset: [side, 0] };
  if (await api.change('edit', { edit })) store.set({ selected: id });
  return null;
}
