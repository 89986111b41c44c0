const study = document.querySelector('main').dataset.study;
const pairs = [...document.querySelectorAll('section[data-pair]')];
const store = `study-${study}`;
const at = (id) => document.getElementById(id);

function stored() {
  try {
    return JSON.parse(localStorage.getItem(store)) || {};
  } catch {
    return {};
  }
}

const state = { rater: '', name: '', answers: {}, ...stored() };
if (!state.rater) {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  state.rater = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

function save() {
  try {
    localStorage.setItem(store, JSON.stringify(state));
    at('kept').hidden = true;
  } catch {
    at('kept').hidden = false;  // Private windows keep nothing.
  }
}

const questions = (pair) => [...pair.querySelectorAll('fieldset')];
const isDone = (pair) => questions(pair).every((one) => one.querySelector('input:checked'));
let current = 0;

function show(index) {
  current = Math.min(Math.max(index, 0), pairs.length - 1);
  pairs.forEach((pair, number) => { pair.hidden = number !== current; });
  at('intro').hidden = current > 0;
  update();
  window.scrollTo(0, 0);
}

function update() {
  const done = pairs.filter(isDone).length;
  at('done').textContent = `Pair ${current + 1} of ${pairs.length}; ${done} answered`;
  at('back').disabled = current === 0;
  at('next').disabled = current === pairs.length - 1;
  at('finished').hidden = done < pairs.length;
}

for (const pair of pairs) {
  for (const question of questions(pair)) {
    for (const choice of question.querySelectorAll('input')) {
      const given = state.answers[pair.dataset.pair] || {};
      choice.checked = given[question.dataset.question] === choice.value;
      choice.addEventListener('change', () => {
        const answers = (state.answers[pair.dataset.pair] ||= {});
        answers[question.dataset.question] = choice.value;
        save();
        update();
      });
    }
  }
}

at('name').value = state.name;
at('name').addEventListener('input', () => { state.name = at('name').value; save(); });
at('back').addEventListener('click', () => show(current - 1));
at('next').addEventListener('click', () => show(current + 1));
at('download').addEventListener('click', () => {
  const text = JSON.stringify({ study, ...state }, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  link.download = `votes-${study}-${state.rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

save();
const first = pairs.findIndex((pair) => !isDone(pair));
show(first < 0 ? 0 : first);
playTogether(document.querySelector('main'), document.querySelector('.player'));
