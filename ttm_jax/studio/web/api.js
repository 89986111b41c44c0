// Requests to the server. Changes are sent one after the other; each answer is the new state.

import { Layers } from './layers.js';

const API = new URL('../api/', import.meta.url);
const TOKEN = 'ttm-studio-session';
const POLL = 400; // Milliseconds between looks at running jobs.

export class Api {
  #token = '';
  #last = Promise.resolve();
  #polling = 0;
  #open = 0;
  layers = null;

  constructor(store) {
    this.store = store;
  }

  /** Continue the session of this tab, or start one. */
  async start() {
    this.#token = sessionStorage.getItem(TOKEN) ?? '';
    if (this.#token) {
      const response = await this.#fetch('about');
      if (response.ok) return this.#begin(await response.json());
    }
    await this.#renew();
  }

  async #renew() {
    const { token, about } = await (await this.#fetch('session', { method: 'POST' })).json();
    this.#token = token;
    sessionStorage.setItem(TOKEN, token);
    await this.#begin(about);
  }

  async #begin(about) {
    this.layers = new Layers(about);
    this.store.set({ about });
    await this.#take(await this.#fetch('state'));
  }

  /** Whether every change has been answered. */
  get idle() {
    return this.#open === 0;
  }

  /** Change the project: POST change/WHAT. Return whether it was done. */
  change(what, body = {}) {
    return this.#send(`change/${what}`, JSON.stringify(body));
  }

  /** Open a picture, mask, project, or motion of another program. */
  upload(what, file) {
    return this.#send(what, file, { 'X-Name': encodeURIComponent(file.name ?? 'pasted.png') });
  }

  example(number) {
    return this.#send('example', JSON.stringify({ number }));
  }

  async cancel(job) {
    this.#open++;
    const response = await this.#fetch('cancel', { method: 'POST', body: JSON.stringify({ job }) });
    if (response.ok) await this.#update(await response.json());
    this.#open--;
  }

  /** Return JSON of an address, or null after a message. */
  async json(path, body) {
    const response = await this.#fetch(path, body && { method: 'POST', body: JSON.stringify(body) });
    if (response.ok) return response.json();
    await this.#complain(response);
    return null;
  }

  /** Return the answer of an address, or null after a message. */
  async get(path) {
    const response = await this.#fetch(path);
    if (response.ok) return response;
    await this.#complain(response);
    return null;
  }

  /** Let the browser save a download. */
  async download(path) {
    const response = await this.get(path);
    if (!response) return;
    const name = /filename="([^"]+)"/.exec(response.headers.get('Content-Disposition'))?.[1] ?? 'download';
    const link = Object.assign(document.createElement('a'), {
      href: URL.createObjectURL(await response.blob()),
      download: name,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  #send(path, body, headers = {}) {
    const done = this.#last.then(async () => {
      const have = { 'X-Have': this.layers.versions.join(',') };
      return this.#take(await this.#fetch(path, { method: 'POST', body, headers: { ...have, ...headers } }));
    });
    this.#open++;
    this.#last = done.catch(() => {}).then(() => this.#open--);
    return done;
  }

  async #fetch(path, { headers = {}, ...options } = {}) {
    try {
      return await fetch(new URL(path, API), { ...options, headers: { 'X-Session': this.#token, ...headers } });
    } catch {
      this.store.say('The studio does not answer. Your project is kept there: start it, or try again.', 'error');
      return new Response('{"error": ""}', { status: 503 });
    }
  }

  async #take(response) {
    if (!response.ok) {
      await this.#complain(response);
      return false;
    }
    const state = await response.json();
    const used = (state.objects ?? []).map((object) => object.layer).filter(Boolean);
    await this.layers.add(state.layers ?? {}, used);
    delete state.layers;
    this.store.set({ state });
    for (const note of state.notes_of_this ?? []) this.store.say(note, 'note');
    this.#poll();
    return true;
  }

  async #complain(response) {
    const { error, lost } = await response.json().catch(() => ({ error: `error ${response.status}` }));
    if (error) this.store.say(error, 'error');
    if (lost) await this.#renew();
  }

  /** Watch jobs until all are over. */
  #poll() {
    clearTimeout(this.#polling);
    if (!this.store.state.jobs.some(isOpen)) return;
    this.#polling = setTimeout(async () => {
      const response = await this.#fetch('jobs');
      if (response.ok) await this.#update(await response.json());
      else this.#poll();
    }, POLL);
  }

  /** Take the jobs as they are now; fetch the state if one has ended. */
  async #update(jobs) {
    const before = new Set(this.store.state.jobs.filter(isOpen).map((job) => job.id));
    const over = jobs.filter((job) => before.has(job.id) && !isOpen(job));
    this.store.set({ state: { ...this.store.state, jobs } });
    for (const job of over) {
      if (job.status === 'failed') this.store.say(job.message, 'error');
      if (job.status === 'cancelled') this.store.say(`${job.what}: cancelled.`);
    }
    if (!over.length) return this.#poll();
    const have = { 'X-Have': this.layers.versions.join(',') };
    await this.#take(await this.#fetch('state', { headers: have }));
    for (const job of over) this.store.dispatchEvent(new CustomEvent('job', { detail: job }));
    return null;
  }
}

function isOpen(job) {
  return job.status === 'waiting' || job.status === 'running';
}
