// Progress of what is waiting or running, with a button to cancel it.

import { h, keyed } from './dom.js';

/** Return a list of the jobs whose description begins in one of some ways. */
export function jobList(store, api, starts) {
  const element = h('div', { class: 'jobs' });
  store.on(['state'], () => {
    const open = store.state.jobs.filter(
      (job) => ['waiting', 'running'].includes(job.status) && starts.some((start) => job.what.startsWith(start)),
    );
    keyed(element, open, (job) => job.id, create, (item, job) => {
      const [text, bar, button] = item.children;
      const share = job.total ? job.done / job.total : 0;
      const left = share > 0 ? (job.seconds / share) * (1 - share) : 0;
      const rest = left >= 1 ? `, about ${Math.ceil(left)} s left` : '';
      text.textContent =
        job.status === 'waiting'
          ? `${job.what}: waiting, ${job.before} before it`
          : job.done
            ? `${job.what}: step ${job.done} of ${job.total}${rest}`
            : `${job.what}: preparing`;
      if (job.status === 'running' && job.total) {
        bar.value = job.done;
        bar.max = job.total;
      } else bar.removeAttribute('value');
      bar.setAttribute('aria-label', job.what);
      button.onclick = () => api.cancel(job.id);
    });
  });
  return element;

  function create() {
    return h(
      'div',
      { class: 'job' },
      h('span'),
      h('progress'),
      h('button', { type: 'button', class: 'quiet' }, 'Cancel'),
    );
  }
}
