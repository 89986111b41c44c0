// The scene: picture, caption and objects.

import { h, icon, iconButton, keyed, labelled, set, setField } from './dom.js';

const PICTURES = 'image/*,.tif,.tiff';

/** Return a button that lets the user choose a file. */
export function fileButton(text, accept, take, className = '') {
  const input = h('input', {
    type: 'file',
    accept,
    class: 'visually-hidden',
    tabindex: -1,
    'aria-hidden': 'true',
    onchange: () => {
      if (input.files[0]) take(input.files[0]);
      input.value = '';
    },
  });
  const button = h('button', { type: 'button', class: className, onclick: () => input.click() }, text);
  return h('span', { class: 'file' }, button, input);
}

/** The place for a picture, while there is none. */
export function welcome(store, api) {
  const examples = h('div', { class: 'examples', role: 'group', 'aria-label': 'Examples' });
  const drop = h(
    'div',
    { class: 'drop' },
    icon('picture'),
    h('h2', {}, 'Begin with a picture'),
    h('p', {}, 'Drop one here, paste it, or'),
    fileButton('Choose a picture', PICTURES, (file) => api.upload('picture', file), 'primary'),
  );
  const element = h('div', { class: 'welcome' }, drop, h('h3', {}, 'or take an example'), examples);
  store.on(['about'], async () => {
    if (!store.about) return;
    const found = (await api.json('examples')) ?? [];
    examples.replaceChildren(
      ...found.map(({ caption, image }, number) =>
        h(
          'button',
          { type: 'button', class: 'example', onclick: () => api.example(number) },
          h('img', { src: image, alt: caption, title: caption }),
        ),
      ),
    );
  });
  return element;
}

/** Take pictures that are dropped on an element or pasted into the page. */
export function takePictures(element, api) {
  element.addEventListener('dragover', (event) => {
    event.preventDefault();
    element.classList.add('dragging');
  });
  element.addEventListener('dragleave', () => element.classList.remove('dragging'));
  element.addEventListener('drop', (event) => {
    event.preventDefault();
    element.classList.remove('dragging');
    const file = event.dataTransfer.files[0];
    if (file) api.upload(file.name.endsWith('.ttm.zip') ? 'project' : 'picture', file);
  });
  document.addEventListener('paste', (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith('image/'));
    if (file) api.upload('picture', file);
  });
}

export function scenePanel(store, api) {
  const caption = h('textarea', {
    rows: 3,
    placeholder: 'A brown dog runs to the left on a beach.',
    onchange: () => api.change('texts', { caption: caption.value }),
  });
  const list = h('ul', { class: 'objects', 'aria-label': 'Objects' });
  const add = h(
    'button',
    {
      type: 'button',
      class: 'quiet',
      onclick: () => addObject(store, api),
    },
    icon('plus'),
    'Add object',
  );
  const find = h(
    'button',
    { type: 'button', class: 'quiet', onclick: () => api.change('find') },
    'Find by caption',
  );
  const element = h(
    'div',
    { class: 'panel-content' },
    labelled('Caption: what the video shows', caption),
    h('h3', {}, 'Objects'),
    list,
    h(
      'div',
      { class: 'scene-buttons' },
      add,
      fileButton('Mask file', PICTURES, (file) => api.upload('mask', file), 'quiet'),
      find,
      fileButton('New picture', PICTURES, (file) => api.upload('picture', file), 'quiet'),
    ),
  );
  store.on(['state', 'selected', 'about'], () => {
    if (!store.about) return;
    setField(caption, store.state.caption ?? '');
    find.hidden = !store.about.by_text;
    add.disabled = store.free === null;
    add.title = store.free === null ? `This model knows ${store.about.max_objects} objects` : '';
    keyed(list, store.objects, (object) => object.id, () => objectItem(store, api), (item, object) => item.show(object));
  });
  return element;
}

async function addObject(store, api) {
  const id = store.free;
  if (id === null) return;
  if (await api.change('object', { object: id, name: `object ${id}` })) {
    store.set({ selected: id, tool: 'brush', target: 'objects' });
    store.go(0);
    store.say(`Paint object ${id} on the picture.`);
  }
}

function objectItem(store, api) {
  let id = 0;
  const change = (fields) => api.change('object', { object: id, ...fields });
  const swatch = h('button', { type: 'button', class: 'swatch', onclick: () => store.set({ selected: id }) });
  const name = h('input', {
    class: 'name',
    onfocus: () => store.set({ selected: id }),
    onchange: () => change({ name: name.value }),
  });
  const eye = iconButton('eye', 'Show', () => change({ shown: eye.getAttribute('aria-pressed') !== 'true' }));
  const remove = iconButton('close', 'Remove', () => api.change('remove_object', { object: id }));
  remove.classList.add('remove');
  const prompt = h('textarea', {
    rows: 2,
    placeholder: 'What it does',
    onfocus: () => store.set({ selected: id }),
    onchange: () => change({ prompt: prompt.value }),
  });
  const item = h('li', { class: 'object' }, h('div', { class: 'object-head' }, swatch, name, eye, remove), prompt);
  item.show = (object) => {
    id = object.id;
    const called = object.name || `object ${id}`;
    const chosen = id === store.selected;
    item.classList.toggle('selected', chosen);
    item.style.setProperty('--color', store.color(id));
    set(swatch, { 'aria-label': `Select ${called}`, 'aria-pressed': String(chosen), textContent: String(id) });
    setField(name, object.name);
    name.setAttribute('aria-label', `Name of object ${id}`);
    prompt.setAttribute('aria-label', `Prompt of ${called}`);
    setField(prompt, object.prompt);
    set(eye, { 'aria-pressed': String(object.shown), 'aria-label': `Show ${called}` });
    eye.replaceChildren(icon(object.shown ? 'eye' : 'hidden'));
    remove.setAttribute('aria-label', `Remove ${called}`);
  };
  return item;
}
