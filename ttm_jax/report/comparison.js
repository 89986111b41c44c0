const clips = [...document.querySelectorAll('article[data-objects]')];
const filter = document.querySelector('#objects');
const count = document.querySelector('#count');

function choose() {
  let shown = 0;
  for (const clip of clips) {
    clip.hidden = filter.value !== '' && clip.dataset.objects !== filter.value;
    shown += !clip.hidden;
  }
  count.textContent = `${shown} of ${clips.length} clips`;
}

filter.addEventListener('change', choose);
choose();
playTogether(document.querySelector('main'), document.querySelector('.player'));
