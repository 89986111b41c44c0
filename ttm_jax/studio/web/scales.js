// Fields of the guidance scales that a network takes.

import { h, labelled } from './dom.js';

const NAMES = { visual_scale: 'Guidance by the image', text_scale: 'Guidance by the text' };

/** Return the fields: `element`, `show(ranges)` and `values()`, which leaves out empty fields. */
export function scaleFields() {
  const element = h('div', { class: 'fields', hidden: true });
  let fields = {};
  return {
    element,
    show(ranges) {
      const chosen = Object.entries(ranges).filter(([, [low, high]]) => low < high);
      fields = Object.fromEntries(
        chosen.map(([name, [low, high]]) => [
          name,
          h('input', { type: 'number', min: low, max: high, step: 'any', placeholder: `${low} to ${high}` }),
        ]),
      );
      element.replaceChildren(...chosen.map(([name]) => labelled(NAMES[name], fields[name])));
      element.hidden = !chosen.length;
    },
    values() {
      const given = Object.entries(fields).filter(([, field]) => field.value);
      return Object.fromEntries(given.map(([name, field]) => [name, Number(field.value)]));
    },
  };
}
