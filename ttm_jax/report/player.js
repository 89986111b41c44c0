'use strict';

// Play the videos below `root` by one clock, so that all show the same frame. `control` holds a
// button, a slider over frames and an output, and states data-fps and data-frames. A video is
// loaded (data-src) when it comes into view, and plays only there.
function playTogether(root, control) {
  const fps = Number(control.dataset.fps), frames = Number(control.dataset.frames);
  const button = control.querySelector('button'), label = control.querySelector('output');
  const slider = control.querySelector('input[type=range]');
  const visible = new Set();
  let playing = false, frame = 0, started = 0;

  const middle = () => (frame + 0.5) / fps;
  const seek = (video) => {
    if (video.readyState) video.currentTime = Math.min(middle(), video.duration);
  };

  function show() {
    slider.value = frame;
    label.textContent = `${frame + 1} / ${frames}`;
  }

  function pause() {
    playing = false;
    button.textContent = 'Play';
    button.setAttribute('aria-pressed', 'false');
    for (const video of visible) { video.pause(); seek(video); }
    show();
  }

  function play() {
    playing = true;
    button.textContent = 'Pause';
    button.setAttribute('aria-pressed', 'true');
    started = performance.now() - 1000 * (frame / fps);
    for (const video of visible) seek(video);
    requestAnimationFrame(tick);
  }

  function tick(now) {
    if (!playing) return;
    const time = Math.max(0, (now - started) / 1000) % (frames / fps);
    const before = frame;
    frame = Math.min(frames - 1, Math.floor(time * fps));
    for (const video of visible) {
      if (!video.readyState) continue;
      if (frame < before || Math.abs(video.currentTime - time) > 1.5 / fps + 0.05) seek(video);
      if (video.paused && time < video.duration - 0.5 / fps) video.play().catch(() => {});
    }
    show();
    requestAnimationFrame(tick);
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { target: video, isIntersecting } of entries) {
      if (!isIntersecting) { visible.delete(video); video.pause(); continue; }
      visible.add(video);
      if (!video.src) {
        video.addEventListener('loadedmetadata', () => seek(video));
        video.preload = 'auto';
        video.src = video.dataset.src;
      }
      seek(video);
    }
  }, { rootMargin: '200px' });
  for (const video of root.querySelectorAll('video')) observer.observe(video);

  slider.max = frames - 1;
  slider.addEventListener('input', () => { frame = Number(slider.value); pause(); });
  button.addEventListener('click', () => (playing ? pause() : play()));
  document.addEventListener('keydown', (event) => {
    if (event.key !== ' ' || event.target.closest('button, input, select, textarea, summary')) return;
    event.preventDefault();
    if (playing) pause(); else play();
  });
  show();
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) play();
}
