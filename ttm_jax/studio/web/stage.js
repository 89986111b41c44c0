// The canvas of the editor: draws a frame, and turns pointer and key events into edits.

import { h, throttled } from './dom.js';

const HANDLE = 7; // Half the side of a handle, in CSS pixels.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PAINTING = ['brush', 'eraser', 'lasso', 'fill'];
const SELECT = '#7aa2ff';

export class Stage {
  #picture = null;
  #points = []; // Of the stroke or path that is drawn.
  #places = []; // Where the path that is drawn leads the object, frame by frame.
  #drag = null; // A move, scaling or rotation that the server does not know yet.
  #labels = null;
  #skins = new Map(); // Layer and frame -> borders, for the onion skin.

  constructor(store, api) {
    this.store = store;
    this.api = api;
    this.canvas = h('canvas', {
      class: 'stage-canvas',
      tabindex: 0,
      role: 'application',
      'aria-roledescription': 'motion editor',
      onpointerdown: (event) => this.#down(event),
      onpointermove: (event) => this.#move(event),
      onpointerup: (event) => this.#up(event),
      onpointercancel: () => this.#forget(),
      onkeydown: (event) => this.#key(event),
    });
    this.element = h('div', { class: 'stage' }, this.canvas);
    this.context = this.canvas.getContext('2d');
    this.mask = document.createElement('canvas');
    this.sendPath = throttled(60, (points) => this.#preview(points));
    new ResizeObserver(() => this.#resize()).observe(this.element);
    store.on(['state'], () => this.#load());
    store.on(['frame', 'selected', 'onion', 'tool', 'target', 'view', 'playing'], () => this.draw());
  }

  async #load() {
    const { state } = this.store;
    if (state.picture !== null && this.#picture?.version !== state.picture) {
      const version = state.picture;
      this.#picture = { version };
      const response = await this.api.get('picture');
      if (response) this.#picture = { version, bitmap: await createImageBitmap(await response.blob()) };
      this.#resize();
    }
    this.#drag = null;
    this.draw();
  }

  #resize() {
    const { about } = this.store;
    if (!about) return;
    const { clientWidth, clientHeight } = this.element;
    const scale = Math.min(clientWidth / about.width, clientHeight / about.height);
    if (scale <= 0) return;
    const ratio = devicePixelRatio;
    const [width, height] = [about.width * scale, about.height * scale];
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.mask.width = about.width;
    this.mask.height = about.height;
    this.scale = this.canvas.width / about.width; // Canvas pixels per pixel of the video.
    this.css = scale;
    this.draw();
  }

  /** The numbers of the objects of a frame, Uint8Array; with the drag that goes on. */
  labels(frame) {
    const { about, object } = { about: this.store.about, object: (id) => this.store.object(id) };
    const out = new Uint8Array(about.height * about.width);
    for (const id of this.store.order(frame)) {
      const { layer, shown } = object(id) ?? {};
      if (!layer || !shown) continue;
      const drag = this.#drag?.id === id && this.#drag.frame === frame ? this.#drag : null;
      if (drag && drag.kind !== 'translate') continue;
      this.api.layers.paint(out, layer, frame, id, Math.round(drag?.by[0] ?? 0), Math.round(drag?.by[1] ?? 0));
    }
    return out;
  }

  draw() {
    const { store, context } = this;
    if (!store.hasPicture || store.view !== 'edit' || !this.scale) return;
    const { width, height } = store.about;
    const painting = PAINTING.includes(store.tool) && store.target === 'objects';
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = '#000';
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.scale(this.scale, this.scale);
    if (this.#picture?.bitmap) {
      context.globalAlpha = painting ? 1 : 0.62;
      context.imageSmoothingEnabled = true;
      context.drawImage(this.#picture.bitmap, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    this.#labels = this.labels(store.frame);
    if (store.onion && !store.playing && !painting) this.#onion();
    this.#fill(this.#labels, painting ? 70 : 105);
    this.#outlines(this.#borders(this.#labels));
    const drag = this.#drag;
    if (drag && drag.kind !== 'translate' && drag.frame === store.frame) this.#turned(drag);
    if (!store.playing && !painting) this.#trail();
    if (store.tool === 'move' && !store.playing) this.#handles();
    this.#stroke();
    const name = store.object()?.name || 'no object';
    this.canvas.setAttribute(
      'aria-label',
      `Frame ${store.frame} of ${store.about.frames}. Selected: ${name}. Arrow keys move it.`,
    );
  }

  #fill(labels, alpha) {
    const { width, height } = this.store.about;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colors = [0, ...this.store.about.colors.map((color) => abgr(color, alpha))];
    const chosen = abgr(this.store.color(this.store.selected), Math.min(255, alpha + 50));
    for (let i = 0; i < labels.length; i++) {
      if (labels[i]) pixels[i] = labels[i] === this.store.selected ? chosen : colors[labels[i]];
    }
    this.mask.getContext('2d').putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.mask, 0, 0);
  }

  /** Return the borders between objects, along the edges of pixels, as a path for each. */
  #borders(labels) {
    const { width, height } = this.store.about;
    const paths = new Map();
    const edge = (id, x0, y0, x1, y1) => {
      if (!id) return;
      if (!paths.has(id)) paths.set(id, new Path2D());
      paths.get(id).moveTo(x0, y0);
      paths.get(id).lineTo(x1, y1);
    };
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const here = labels[i];
        const right = x + 1 < width ? labels[i + 1] : 0;
        const below = y + 1 < height ? labels[i + width] : 0;
        if (here !== right) {
          edge(here, x + 1, y, x + 1, y + 1);
          edge(right, x + 1, y, x + 1, y + 1);
        }
        if (here !== below) {
          edge(here, x, y + 1, x + 1, y + 1);
          edge(below, x, y + 1, x + 1, y + 1);
        }
        if (here && !x) edge(here, 0, y, 0, y + 1);
        if (here && !y) edge(here, x, 0, x + 1, 0);
      }
    }
    return paths;
  }

  #outlines(paths, alpha = 1) {
    const { context, store } = this;
    context.globalAlpha = alpha;
    for (const [id, path] of paths) {
      context.strokeStyle = store.color(id);
      context.lineWidth = ((id === store.selected ? 2 : 1.2) * devicePixelRatio) / this.scale;
      context.stroke(path);
    }
    context.globalAlpha = 1;
  }

  /** Outline the selected object in the frames before and after. */
  #onion() {
    const { store } = this;
    const { layer, shown } = store.object() ?? {};
    if (!layer || !shown) return;
    for (const [by, alpha] of [[-2, 0.18], [-1, 0.35], [1, 0.35], [2, 0.18]]) {
      const frame = store.frame + by;
      if (frame < 0 || frame >= store.about.frames) continue;
      const key = `${layer} ${frame}`;
      if (!this.#skins.has(key)) {
        if (this.#skins.size > 16) this.#skins.clear();
        const labels = new Uint8Array(this.#labels.length);
        this.api.layers.paint(labels, layer, frame, store.selected);
        this.#skins.set(key, this.#borders(labels));
      }
      this.#outlines(this.#skins.get(key), alpha);
    }
  }

  /** Draw where the selected object is over time; every few frames with its number. */
  #trail() {
    const { store } = this;
    const object = store.object();
    if (!object?.shown) return;
    this.#dots(object.centers, 0, 'rgba(255,255,255,.9)', store.frame);
  }

  #dots(centers, first, color, current) {
    const { context } = this;
    const unit = devicePixelRatio / this.scale;
    const seen = centers.filter(Boolean);
    const moves = seen.some(([x, y]) => Math.hypot(x - seen[0][0], y - seen[0][1]) > 0.5);
    if (!moves) return;
    context.lineWidth = 1.5 * unit;
    context.strokeStyle = 'rgba(0,0,0,.55)';
    context.fillStyle = color;
    context.font = `${11 * unit}px system-ui, sans-serif`;
    const every = Math.max(1, Math.ceil(centers.length / 8));
    const path = new Path2D();
    let drawing = false;
    for (const center of centers) {
      if (center) drawing ? path.lineTo(center[0] + 0.5, center[1] + 0.5) : path.moveTo(center[0] + 0.5, center[1] + 0.5);
      drawing = Boolean(center);
    }
    context.lineWidth = 3 * unit;
    context.stroke(path);
    context.lineWidth = 1.2 * unit;
    context.strokeStyle = color;
    context.stroke(path);
    centers.forEach((center, index) => {
      if (!center) return;
      const frame = index + first;
      const size = (frame === current ? 5 : index % every ? 2 : 3.2) * unit;
      const [x, y] = [center[0] + 0.5, center[1] + 0.5];
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fillStyle = frame === current ? SELECT : color;
      context.fill();
      if (index % every === 0) {
        context.lineWidth = 3 * unit;
        context.strokeStyle = 'rgba(0,0,0,.7)';
        context.strokeText(frame, x + 6 * unit, y - 5 * unit);
        context.fillStyle = '#fff';
        context.fillText(frame, x + 6 * unit, y - 5 * unit);
      }
    });
  }

  #box() {
    const object = this.store.object();
    return object?.layer && object.shown ? this.api.layers.box(object.layer, this.store.frame) : null;
  }

  /** Corners of the selection to scale it, and a knob above to rotate it. */
  #places4(box) {
    const knob = [(box[0] + box[2]) / 2, box[1] - (26 * devicePixelRatio) / this.scale];
    if (knob[1] < 0) knob[1] = box[3] + (26 * devicePixelRatio) / this.scale;
    const corners = [[box[0], box[1]], [box[2], box[1]], [box[0], box[3]], [box[2], box[3]]];
    return { corners, knob };
  }

  #handles() {
    const box = this.#box();
    if (!box || this.#drag) return;
    const { context } = this;
    const unit = devicePixelRatio / this.scale;
    const { corners, knob } = this.#places4(box);
    context.strokeStyle = SELECT;
    context.fillStyle = '#fff';
    context.lineWidth = 1.5 * unit;
    context.setLineDash([4 * unit, 3 * unit]);
    context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    context.setLineDash([]);
    for (const [x, y] of corners) {
      context.beginPath();
      context.rect(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit);
      context.fill();
      context.stroke();
    }
    context.beginPath();
    context.arc(knob[0], knob[1], 5 * unit, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }

  /** Draw the object that is being scaled or rotated. */
  #turned({ id, frame, kind, by }) {
    const { context, store } = this;
    const object = store.object(id);
    const center = object.centers[frame];
    const labels = new Uint8Array(this.#labels.length);
    this.api.layers.paint(labels, object.layer, frame, id);
    context.save();
    context.translate(center[0] + 0.5, center[1] + 0.5);
    if (kind === 'scale') context.scale(by, by);
    else context.rotate((by * Math.PI) / 180);
    context.translate(-center[0] - 0.5, -center[1] - 0.5);
    this.#fill(labels, 105);
    this.#outlines(this.#borders(labels));
    context.restore();
  }

  /** Draw the stroke or path under the pointer. */
  #stroke() {
    const points = this.#points;
    const { context, store } = this;
    const unit = devicePixelRatio / this.scale;
    if (!points.length) return;
    const line = new Path2D();
    points.forEach(([x, y], index) => (index ? line.lineTo(x, y) : line.moveTo(x, y)));
    context.lineCap = context.lineJoin = 'round';
    if (store.tool === 'brush' || store.tool === 'eraser') {
      context.globalAlpha = 0.6;
      context.strokeStyle = store.tool === 'brush' ? store.color(store.selected) : '#000';
      context.lineWidth = 2 * store.radius;
      if (points.length === 1) line.lineTo(points[0][0] + 0.01, points[0][1]);
    } else {
      context.strokeStyle = '#fff';
      context.lineWidth = 2 * unit;
      if (store.tool === 'lasso') line.closePath();
      if (store.tool === 'click' && points.length > 1) {
        const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
        return;
      }
    }
    context.stroke(line);
    context.globalAlpha = 1;
    if (store.tool === 'path') this.#dots(this.#places, store.frame, '#fff', store.frame);
  }

  /** Return the pixel under the pointer, (x, y) with fractions. */
  #at(event) {
    const place = this.canvas.getBoundingClientRect();
    return [(event.clientX - place.left) / this.css, (event.clientY - place.top) / this.css];
  }

  #down(event) {
    const { store } = this;
    if (event.button || !store.hasPicture) return;
    store.set({ playing: false });
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const point = this.#at(event);
    if (store.tool === 'move') return this.#grab(point);
    this.#points = [point];
    this.#places = [];
    this.draw();
  }

  /** Begin to move, scale or rotate. */
  #grab(point) {
    const { store } = this;
    const near = ([x, y]) => Math.hypot(x - point[0], y - point[1]) * this.css <= HANDLE + 3;
    const box = this.#box();
    const center = store.object()?.centers[store.frame];
    const common = { id: store.selected, frame: store.frame, start: point };
    if (box && center) {
      const { corners, knob } = this.#places4(box);
      const middle = [center[0] + 0.5, center[1] + 0.5];
      if (near(knob)) return (this.#drag = { ...common, kind: 'rotate', middle, by: 0 });
      if (corners.some(near)) return (this.#drag = { ...common, kind: 'scale', middle, by: 1 });
    }
    const [x, y] = point.map(Math.floor);
    const hit = this.#labels?.[y * store.about.width + x];
    if (!hit) return null;
    store.set({ selected: hit });
    return (this.#drag = { ...common, id: hit, kind: 'translate', by: [0, 0] });
  }

  #move(event) {
    if (this.#drag && !this.#drag.sent) {
      const start = performance.now();
      this.#pull(this.#at(event));
      this.draw();
      // What a test of the browser reads: from the event to the redrawn frame.
      (this.timings ??= []).push(performance.now() - start);
    } else if (this.#points.length) {
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const point = this.#at(each);
        const last = this.#points.at(-1);
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) * this.css > 2) this.#points.push(point);
      }
      if (this.store.tool === 'path') this.sendPath(this.#points);
      this.draw();
    }
  }

  #pull(point) {
    const drag = this.#drag;
    const { start, middle } = drag;
    if (drag.kind === 'translate') drag.by = [Math.round(point[0] - start[0]), Math.round(point[1] - start[1])];
    else {
      const from = [start[0] - middle[0], start[1] - middle[1]];
      const to = [point[0] - middle[0], point[1] - middle[1]];
      if (drag.kind === 'scale') drag.by = Math.max(0.05, Math.hypot(...to) / Math.max(1e-3, Math.hypot(...from)));
      else drag.by = ((Math.atan2(to[1], to[0]) - Math.atan2(from[1], from[0])) * 180) / Math.PI;
    }
  }

  #up(event) {
    const { store, api } = this;
    if (this.#drag) {
      const { kind, id, frame, by } = this.#drag;
      const still = kind === 'translate' ? !by[0] && !by[1] : kind === 'scale' ? by === 1 : by === 0;
      if (still) return this.#forget();
      this.#drag.sent = true; // It stays on screen until the answer.
      const value = kind === 'translate' ? by : Math.round(by * 1000) / 1000;
      return api.change('handle', { kind, object: id, frame, by: value }).then((done) => done || this.#forget());
    }
    const points = this.#points.map(([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    if (!points.length) return null;
    const { tool } = store;
    if (tool === 'path') return this.#follow(points);
    if (tool === 'click') return this.#segment(points, !event.shiftKey);
    const stroke = { tool, points, radius: store.radius, tolerance: store.tolerance };
    const where = store.target === 'frame' ? { frame: store.frame } : {};
    return api.change('paint', { object: store.selected, stroke, ...where }).then(() => this.#forget());
  }

  #follow(points) {
    const { store, api } = this;
    const thin = Math.ceil(points.length / 1000);
    const kept = points.filter((_, index) => index % thin === 0 || index === points.length - 1);
    if (kept.length < 2) return this.#forget();
    if (store.frame === store.about.frames - 1) {
      store.say('A path begins in the current frame: go to an earlier one first.', 'error');
      return this.#forget();
    }
    const edit = { kind: 'follow', object: store.selected, points: kept, start: store.frame };
    return api.change('edit', { edit }).then(() => this.#forget());
  }

  #segment(points, inside) {
    const [first, last] = [points[0], points.at(-1)];
    const isBox = points.length > 2 && Math.hypot(last[0] - first[0], last[1] - first[1]) * this.css > 12;
    const box = [Math.min(first[0], last[0]), Math.min(first[1], last[1]), Math.max(first[0], last[0]), Math.max(first[1], last[1])];
    const asked = isBox ? { box } : { points: [first], inside: [inside] };
    this.#forget();
    return this.api.change('segment', { object: this.store.selected, ...asked });
  }

  async #preview(points) {
    const thin = Math.ceil(points.length / 500);
    const kept = points.filter((_, index) => index % thin === 0);
    const places = await this.api.json('path', { points: kept, start: this.store.frame, object: this.store.selected });
    if (!places || !this.#points.length) return;
    this.#places = places;
    this.draw();
  }

  #forget() {
    this.#points = [];
    this.#places = [];
    this.#drag = null;
    this.draw();
  }

  #key(event) {
    const by = ARROWS[event.key];
    const { store } = this;
    if (!by || event.ctrlKey || event.metaKey || event.altKey || !store.object()?.layer) return;
    event.preventDefault();
    event.stopPropagation();
    const step = event.shiftKey ? 5 : 1;
    this.api.change('handle', {
      kind: 'translate',
      object: store.selected,
      frame: store.frame,
      by: by.map((value) => value * step),
    });
  }
}

/** Return a #rrggbb color with an opacity as the number that a Uint32Array of pixels holds. */
function abgr(color, alpha) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
