// Videos of stage 2: settings, progress, and the history of this session.

import { h, keyed, labelled, set } from './dom.js';
import { jobList } from './jobs.js';
import { scaleFields } from './scales.js';

export function renderPanel(store, api) {
  const seed = h('input', { type: 'number', min: 0, value: '0' });
  const steps = h('input', { type: 'number', min: 1, max: 1000 });
  const scales = scaleFields();
  const preview = h('button', { type: 'button', onclick: () => start('preview') }, 'Preview');
  const final = h('button', { type: 'button', class: 'primary', onclick: () => start('final') }, 'Render video');
  const list = h('ol', { class: 'renders', 'aria-label': 'Videos of this session' });
  const none = h('p', { class: 'hint' });
  const element = h(
    'div',
    { class: 'panel-content' },
    h('p', { class: 'hint' }, 'Stage 2 generates the video that follows the motion.'),
    h('div', { class: 'fields' }, labelled('Seed', seed), labelled('Steps', steps)),
    scales.element,
    h('div', { class: 'buttons even' }, preview, final),
    jobList(store, api, ['Preview video', 'Final video']),
    h('h3', {}, 'Videos'),
    none,
    list,
  );
  store.on(['about'], () => {
    if (!store.about) return;
    steps.placeholder = String(store.about.video_steps);
    preview.title = `${Math.max(1, Math.floor(store.about.video_steps / 4))} steps`;
    // A student of few steps samples in these alone.
    set(steps, { disabled: store.about.fixed_steps });
    set(preview, { hidden: store.about.fixed_steps });
    scales.show(store.about.video_scales);
  });
  store.on(['state', 'render', 'view'], show);
  store.addEventListener('job', ({ detail: job }) => {
    if (job.status !== 'done' || typeof job.result !== 'number') return;
    store.set({ render: job.result, view: store.view === 'edit' ? 'side' : store.view, playing: true });
  });
  return element;

  function start(quality) {
    const asked = { seed: Number(seed.value), steps: steps.value ? Number(steps.value) : null, quality };
    api.change('render', { ...asked, scales: scales.values() });
  }

  function show() {
    const newest = [...store.state.renders].reverse();
    none.hidden = newest.length > 0;
    none.textContent = 'None yet.';
    if (!newest.length && store.view !== 'edit') store.set({ view: 'edit', render: null });
    keyed(list, newest, (each) => each.id, create, (item, each) => {
      item.classList.toggle('selected', each.id === store.render && store.view !== 'edit');
      const [head, about, buttons, command] = item.children;
      head.textContent = `Video ${each.id}`;
      about.textContent = `${each.quality}, ${each.steps} steps, seed ${each.seed}, ${each.edits} ${each.edits === 1 ? 'edit' : 'edits'} of ${each.origin}, ${each.seconds} s`;
      about.title = each.caption;
      command.querySelector('code').textContent = each.command;
      set(buttons.children[0], { 'aria-label': `View video ${each.id}` });
    });
  }

  function create(each) {
    const button = (text, onclick, label = text) =>
      h('button', { type: 'button', class: 'small', onclick, 'aria-label': `${label} video ${each.id}` }, text);
    const get = (kind) => () => api.download(`export/${kind}?number=${each.id}`);
    const code = h('code', { tabindex: 0 });
    return h(
      'li',
      { class: 'render' },
      h('strong'),
      h('span', { class: 'hint' }),
      h(
        'div',
        { class: 'buttons' },
        button('View', () => store.set({ render: each.id, view: store.view === 'edit' ? 'side' : store.view, playing: true })),
        button('Compare', () => compare(each.id), 'Compare'),
        button('mp4', get('mp4'), 'Download as mp4:'),
        button('GIF', get('gif'), 'Download as GIF:'),
        button('WebP', get('webp'), 'Download as WebP:'),
        button('Overlay', get('overlay'), 'Download with overlay:'),
        button('Project', get('project'), 'Download the project of'),
        button('Back to this motion', () => api.change('return', { render: each.id }), 'Back to the motion of'),
      ),
      h(
        'details',
        {},
        h('summary', {}, 'Command line'),
        h('p', { class: 'hint' }, 'Unpack its project file as the folder project/, then run:'),
        h('pre', {}, code),
        button('Copy', async () => {
          try {
            await navigator.clipboard.writeText(code.textContent);
            store.say('The command line is copied.', 'done');
          } catch {
            getSelection().selectAllChildren(code);
            store.say('Press Ctrl+C to copy the selected command line.');
          }
        }, 'Copy the command line of'),
      ),
    );
  }

  function compare(number) {
    const others = store.state.renders.filter((each) => each.id !== number);
    if (!others.length) return store.say('Render a second video to compare two.');
    return store.set({ render: number, other: others.at(-1).id, view: 'two' });
  }
}
