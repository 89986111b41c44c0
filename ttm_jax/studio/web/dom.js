// Small helpers to build and update elements.

/** Create an element. Functions become listeners, `class` and other names attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  set(element, props);
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Set attributes, properties and listeners of an element. */
export function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (['value', 'checked', 'disabled', 'hidden', 'textContent', 'selected'].includes(name)) {
      if (element[name] !== value) element[name] = value;
    } else if (value === false || value == null) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? '' : value);
  }
  return element;
}

/** Make the children of an element those of a list, keeping the elements of keys that stay. */
export function keyed(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const name = String(key(item));
    const element = old.get(name) ?? create(item);
    element.dataset.key = name;
    old.delete(name);
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
    update(element, item, index);
  });
  for (const element of old.values()) element.remove();
}

/** Set the text of a field, unless the user is writing in it. */
export function setField(field, value) {
  if (field.getRootNode().activeElement !== field && field.value !== value) field.value = value;
}

const PATHS = {
  undo: 'M7 4 3 8l4 4M3 8h9a5 5 0 0 1 0 10H8',
  redo: 'm13 4 4 4-4 4m4-4H8a5 5 0 0 0 0 10h4',
  play: 'M6 4.5v11l9-5.5z',
  pause: 'M6.5 4.5v11M13.5 4.5v11',
  previous: 'M13 5 7 10l6 5',
  next: 'm7 5 6 5-6 5',
  first: 'M14 5 8 10l6 5M6 5v10',
  last: 'm6 5 6 5-6 5m8-10v10',
  loop: 'M4 9a5 5 0 0 1 5-5h6l-2.5-2.5M16 11a5 5 0 0 1-5 5H5l2.5 2.5',
  onion: 'M8 15a5 5 0 1 1 0-10 5 5 0 0 1 0 10Zm2.5-9.6a5 5 0 1 1 0 9.2',
  move: 'M10 3v14M3 10h14M10 3 8 5m2-2 2 2M10 17l-2-2m2 2 2-2M3 10l2-2m-2 2 2 2m12-2-2-2m2 2-2 2',
  path: 'M4 16C5 8 9 13 11 9s2-5 5-5M4 16h.01M16 4h.01',
  brush: 'M16.5 3.5 9 11m-.5.5c-2 0-3 1-3 2.6 0 1-.7 1.7-2 2 3 1.2 7 .6 7-2.6 0-1.200-.8-2-2-2Z',
  eraser: 'm8 16-4-4 8-8 5 5-7 7H8Zm0 0h9M7.500 8.500l5 5',
  lasso: 'M10 13c-4 0-7-1.800-7-4.500S6 4 10 4s7 1.800 7 4.500S14 13 10 13Zm-4-1c-1 1-1.500 3 .5 4.500',
  fill: 'm9 3 7 7-6 6-6.500-6.500L9.500 3.500M3.500 9.500h12M17 13c1 1.500 1 3 0 3s-1-1.500 0-3Z',
  click: 'M8 8 17 11.500l-4 1.500-1.500 4zM4 4l1.500 1.500M8.500 3v2M3 8.500h2',
  eye: 'M2 10c2-4 5-5.500 8-5.500S16 6 18 10c-2 4-5 5.500-8 5.500S4 14 2 10Zm8 2.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5Z',
  hidden: 'M3 3l14 14M8 5c3-1 7 0 10 5-.8 1.400-1.800 2.600-2.800 3.500M12 15c-3.500 1-7.500-.5-10-5 .9-1.700 2-3 3.200-3.900',
  plus: 'M10 4v12M4 10h12',
  close: 'm5 5 10 10M15 5 5 15',
  download: 'M10 3v9m0 0L6.500 8.500M10 12l3.500-3.500M4 16h12',
  upload: 'M10 13V4m0 0L6.500 7.500M10 4l3.500 3.500M4 16h12',
  help: 'M7.500 7.500A2.500 2.500 0 1 1 11 9.800c-.7.300-1 .8-1 1.700m0 2.500v.01M10 18a8 8 0 1 1 0-16 8 8 0 0 1 0 16Z',
  copy: 'M7 7V3.500h9.500V13H13M3.500 7H13v9.500H3.500z',
  picture: 'M3 4h14v12H3zM3 13l4-4 3 3 3-2.500 4 3.500M13 7.500h.01',
};

/** Return an icon; decorative, so the button around it needs a label. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  set(svg, { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' });
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/** Return a button with an icon and a label for screen readers; the title names the key, too. */
export function iconButton(name, label, onclick, key = '') {
  const title = key ? `${label} (${key})` : label;
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title, onclick }, icon(name));
}

/** Return a labelled field: <label>text <field/></label>. */
export function labelled(text, field, className = '') {
  return h('label', { class: `field ${className}` }, h('span', {}, text), field);
}

/** Return a function that runs another one at most every `wait` milliseconds, the last call always. */
export function throttled(wait, run) {
  let timer = 0;
  let last = 0;
  let pending = null;
  return (...given) => {
    pending = given;
    if (timer) return;
    timer = setTimeout(() => {
      timer = 0;
      last = performance.now();
      run(...pending);
    }, Math.max(0, last + wait - performance.now()));
  };
}
