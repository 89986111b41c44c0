// A speed curve: how far along its path an object is, over time.

import { h, set } from './dom.js';

const TIMES = [0.25, 0.5, 0.75];
const PRESETS = {
  constant: [0.25, 0.5, 0.75],
  'slow start': [0.06, 0.25, 0.56],
  'slow end': [0.44, 0.75, 0.94],
  'slow start and end': [0.16, 0.5, 0.84],
};
const [WIDTH, HEIGHT] = [220, 88];

/** Return an editor for the speed of a path; `send` gets [[time, way], ...]. */
export function speedCurve(speed, send) {
  let ways = TIMES.map((time) => speed?.find(([t]) => t === time)?.[1] ?? time);
  const line = svg('polyline', { class: 'curve', fill: 'none' });
  const handles = TIMES.map((time, index) =>
    svg('circle', {
      r: 6,
      class: 'curve-handle',
      tabindex: 0,
      role: 'slider',
      'aria-label': `Way at ${time * 100} % of the time`,
      'aria-valuemin': 0,
      'aria-valuemax': 100,
      onpointerdown: (event) => event.target.setPointerCapture(event.pointerId),
      onpointermove: (event) => {
        if (!event.buttons) return;
        const { top, height } = drawing.getBoundingClientRect();
        move(index, 1 - (event.clientY - top) / height);
      },
      onpointerup: finish,
      onkeydown: (event) => {
        const by = { ArrowUp: 0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowLeft: -0.05 }[event.key];
        if (!by) return;
        event.preventDefault();
        move(index, ways[index] + by);
        finish();
      },
    }),
  );
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: 'speed' }, line, ...handles);
  const presets = h(
    'select',
    {
      'aria-label': 'Speed',
      onchange: () => {
        if (!PRESETS[presets.value]) return;
        ways = [...PRESETS[presets.value]];
        show();
        finish();
      },
    },
    ...[...Object.keys(PRESETS), 'own curve'].map((name) => h('option', { value: name }, name)),
  );
  show();
  return h('div', { class: 'speed-editor' }, h('label', { class: 'field' }, h('span', {}, 'Speed'), presets), drawing);

  function move(index, way) {
    const low = index ? ways[index - 1] : 0;
    const high = index < ways.length - 1 ? ways[index + 1] : 1;
    ways[index] = Math.round(Math.max(low, Math.min(high, way)) * 100) / 100;
    show();
  }

  function show() {
    const points = [[0, 0], ...TIMES.map((time, index) => [time, ways[index]]), [1, 1]];
    line.setAttribute('points', points.map(([x, y]) => `${x * WIDTH},${(1 - y) * HEIGHT}`).join(' '));
    handles.forEach((handle, index) =>
      set(handle, {
        cx: TIMES[index] * WIDTH,
        cy: (1 - ways[index]) * HEIGHT,
        'aria-valuenow': Math.round(ways[index] * 100),
      }),
    );
    const same = Object.entries(PRESETS).find(([, values]) => values.every((v, i) => Math.abs(v - ways[i]) < 0.005));
    presets.value = same?.[0] ?? 'own curve';
  }

  function finish() {
    send([[0, 0], ...TIMES.map((time, index) => [time, ways[index]]), [1, 1]]);
  }
}

function svg(tag, props, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  set(element, props);
  element.append(...children);
  return element;
}
