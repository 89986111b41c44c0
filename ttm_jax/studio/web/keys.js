// Keyboard shortcuts, and the dialog that lists them.

import { h } from './dom.js';
import { duplicate } from './edit.js';

/** Return [keys, what they do, function] of each shortcut. */
function shortcuts(store, api, help) {
  const edit = (kind, values) => api.change('edit', { edit: { kind, object: store.selected, ...values } });
  const tool = (name) => () => store.set({ tool: name, view: 'edit' });
  return [
    ['space', 'play or pause', () => store.set({ playing: !store.playing })],
    [',', 'previous frame', () => store.step(-1)],
    ['.', 'next frame', () => store.step(1)],
    ['Home', 'first frame', () => store.go(0)],
    ['End', 'last frame', () => store.go(store.about.frames - 1)],
    ['1–8', 'select an object'],
    ['arrows', 'on the canvas: move the object in this frame; with Shift by 5 pixels'],
    ['V', 'move, scale and rotate', tool('move')],
    ['P', 'draw a path', tool('path')],
    ['B', 'brush', tool('brush')],
    ['E', 'eraser', tool('eraser')],
    ['L', 'lasso', tool('lasso')],
    ['F', 'fill', tool('fill')],
    ['H', 'hide the object from this frame on', () => edit('hide', { start: store.frame })],
    ['D', 'duplicate the object', () => duplicate(store, api)],
    ['Delete', 'delete the object', () => edit('delete', {})],
    ['O', 'onion skin', () => store.set({ onion: !store.onion })],
    ['Ctrl+Z', 'undo', () => api.change('undo')],
    ['Ctrl+Shift+Z', 'redo', () => api.change('redo')],
    ['?', 'this list', help],
  ];
}

export function addKeys(store, api, root) {
  const dialog = h('dialog', { class: 'keys', 'aria-label': 'Keyboard shortcuts' });
  const help = () => dialog.showModal();
  const known = shortcuts(store, api, help);
  dialog.append(
    h('h2', {}, 'Keyboard shortcuts'),
    h('dl', {}, ...known.flatMap(([keys, what]) => [h('dt', {}, ...keys.split('+').map((key) => h('kbd', {}, key))), h('dd', {}, what)])),
    h('form', { method: 'dialog' }, h('button', { class: 'primary' }, 'Close')),
  );
  const byKey = new Map(known.filter(([, , run]) => run).map(([keys, , run]) => [keys.toLowerCase(), run]));
  document.addEventListener('keydown', (event) => {
    const field = event.composedPath()[0];
    if (dialog.open || !store.hasPicture || isField(field)) return;
    if (/^[1-8]$/.test(event.key) && store.object(Number(event.key))) {
      return store.set({ selected: Number(event.key) });
    }
    const modifiers = (event.ctrlKey || event.metaKey ? 'ctrl+' : '') + (event.shiftKey && event.key !== '?' ? 'shift+' : '');
    const key = event.key === ' ' ? 'space' : event.key.toLowerCase();
    const run = byKey.get(modifiers + key) ?? (modifiers === 'ctrl+' && key === 'y' ? () => api.change('redo') : null);
    // A button that was reached by keyboard is pressed; one that was clicked does not catch the keys.
    const presses = ['space', 'enter'].includes(key) && field instanceof Element && field.matches('select, :is(button, summary):focus-visible');
    if (!run || event.altKey || presses) return null;
    event.preventDefault();
    return run();
  });
  root.append(dialog);
  return help;
}

function isField(element) {
  return element instanceof Element && element.matches('input:not([type=range]), textarea, select, [contenteditable]');
}
