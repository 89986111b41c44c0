// What the page shows: the server's state, and what is chosen here (frame, object, tool, view).

export class Store extends EventTarget {
  about = null; // The networks and their limits.
  state = { picture: null, jobs: [], proposals: [], renders: [] };
  frame = 0;
  playing = false;
  loop = true;
  onion = true;
  selected = 1;
  tool = 'move';
  target = 'objects'; // What is painted: the objects of the picture, or one frame.
  radius = 2;
  tolerance = 60;
  view = 'edit'; // 'edit', 'side', 'slider', 'overlay' or 'two'.
  render = null; // Number of the render that is viewed,
  other = null; // and of the one that it is compared with.
  divider = 50; // Of the slider, in percent.
  tab = 'scene';

  /** Change values and tell those who listen to one of them. */
  set(changes) {
    const keys = Object.keys(changes).filter((key) => this[key] !== changes[key]);
    if (!keys.length) return;
    for (const key of keys) this[key] = changes[key];
    this.dispatchEvent(new CustomEvent('change', { detail: keys }));
  }

  /** Call a function now and whenever one of some values changes. */
  on(keys, run) {
    this.addEventListener('change', (event) => {
      if (event.detail.some((key) => keys.includes(key))) run();
    });
    run();
  }

  /** Show a message: 'error', 'note' or 'done'. */
  say(text, kind = 'note') {
    this.dispatchEvent(new CustomEvent('message', { detail: { text, kind } }));
  }

  get hasPicture() {
    return this.state.picture !== null;
  }

  get objects() {
    return this.state.objects ?? [];
  }

  object(id = this.selected) {
    return this.objects.find((object) => object.id === id);
  }

  color(id) {
    return this.about.colors[id - 1];
  }

  /** Objects of a frame from back to front. */
  order(frame) {
    return (this.state.order ?? []).findLast((run) => run.from <= frame)?.order ?? [];
  }

  /** The lowest number of no object, or null if there can be no more. */
  get free() {
    const used = new Set(this.objects.map((object) => object.id));
    for (let id = 1; id <= this.about.max_objects; id++) if (!used.has(id)) return id;
    return null;
  }

  step(by) {
    this.go(this.frame + by);
  }

  go(frame) {
    this.set({ frame: Math.max(0, Math.min(this.about.frames - 1, frame)) });
  }
}
