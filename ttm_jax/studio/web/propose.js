// Proposals of stage 1, side by side.

import { h, keyed, labelled, set, setField } from './dom.js';
import { jobList } from './jobs.js';
import { scaleFields } from './scales.js';

export function proposePanel(store, api) {
  const images = new Map(); // Number of a proposal -> address of its animation.
  const motion = h('textarea', {
    rows: 3,
    placeholder: 'The dog runs to the left. The ball rolls after it.',
    onchange: () => api.change('texts', { motion: motion.value }),
  });
  const seed = h('input', { type: 'number', min: 0, value: '0' });
  const count = h('select', {}, ...[1, 2, 3, 4].map((n) => h('option', { value: String(n), selected: n === 4 }, String(n))));
  const steps = h('input', { type: 'number', min: 1, max: 1000 });
  const scales = scaleFields();
  const button = h('button', { type: 'button', class: 'primary wide', onclick: propose }, 'Propose motion');
  const still = h('button', { type: 'button', class: 'quiet', onclick: () => api.change('still') }, 'Start from standing still');
  const grid = h('div', { class: 'proposals', role: 'group', 'aria-label': 'Proposals' });
  const none = h('p', { class: 'hint' });
  const element = h(
    'div',
    { class: 'panel-content' },
    labelled('Motion prompt: what moves, and how', motion),
    h('div', { class: 'fields' }, labelled('Seed', seed), labelled('Proposals', count), labelled('Steps', steps)),
    scales.element,
    button,
    jobList(store, api, ['Proposal', 'Finding', 'Segmenting']),
    none,
    grid,
    still,
  );
  store.on(['about'], () => {
    if (!store.about) return;
    steps.placeholder = String(store.about.motion_steps);
    button.disabled = !store.about.motion_steps;
    scales.show(store.about.motion_scales);
  });
  store.on(['state'], show);
  return element;

  async function propose() {
    // The text may have just been typed.
    if (motion.value !== store.state.motion && !(await api.change('texts', { motion: motion.value }))) return;
    const wanted = Number(count.value);
    const asked = { seed: Number(seed.value), count: wanted, steps: steps.value ? Number(steps.value) : null };
    if (await api.change('propose', { ...asked, scales: scales.values() })) seed.value = String(Number(seed.value) + wanted);
  }

  function show() {
    setField(motion, store.state.motion ?? '');
    const { proposals } = store.state;
    none.hidden = proposals.length > 0 || !store.about?.motion_steps;
    none.textContent = 'Stage 1 draws how the objects move. Ask for some, pick one, and edit it.';
    keyed(grid, proposals, (proposal) => proposal.id, create, (item, proposal) => {
      const [image, text] = item.children;
      set(item, {
        'aria-pressed': String(proposal.current),
        disabled: proposal.stale,
        'aria-label': `Use the proposal with seed ${proposal.seed}`,
        title: proposal.stale ? 'The objects changed since' : proposal.motion,
      });
      text.textContent = `seed ${proposal.seed}`;
      image.alt = '';
      if (images.has(proposal.id)) image.src = images.get(proposal.id);
      item.onclick = async () => {
        if (await api.change('pick', { proposal: proposal.id })) store.set({ view: 'edit', playing: true });
      };
    });
  }

  function create(proposal) {
    const image = h('img');
    api.get(`proposal/${proposal.id}`).then(async (response) => {
      if (!response) return;
      images.set(proposal.id, URL.createObjectURL(await response.blob()));
      image.src = images.get(proposal.id);
    });
    return h('button', { type: 'button', class: 'proposal' }, image, h('span'));
  }
}
