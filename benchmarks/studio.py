"""Measure how immediate editing in the studio is: 8 objects, 128 frames of 256 x 256.

    python -m benchmarks.studio

Prints, for a page in headless Chromium and a server on the same machine: seconds until the editor
is ready; milliseconds from a pointer event of a drag to the redrawn frame, and from the end of the
drag to the exact trajectory; and the memory of page and server over 50 edits. The networks are a
stub, since none runs while motion is edited. The browser is that of Playwright, or that of
TTM_CHROMIUM.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from playwright.sync_api import Page, sync_playwright

from tests.helpers.studio_page import drag, png, settled, upload, value

EDITS = 50
_SERVER = """
import sys, uvicorn
from tests.helpers.studio_stub import StubBackend
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.shell import app_of
studio = Studio(StubBackend(Limits(128, 256, 256, 16.0, 8, 4, 8)))
uvicorn.run(app_of(studio), port=int(sys.argv[1]), log_level='error')
"""
# A drag of 60 pointer events, each in an animation frame of its own.
_DRAG = """async () => {
  const { stage } = document.querySelector('ttm-studio');
  const canvas = stage.canvas, place = canvas.getBoundingClientRect();
  const [x, y] = document.querySelector('ttm-studio').store.object(1).centers[64];
  const fire = (type, dx) => canvas.dispatchEvent(new PointerEvent(type, {
    pointerId: 1, button: 0, buttons: 1, bubbles: true,
    clientX: place.left + (x + dx + .5) * stage.css, clientY: place.top + (y + .5) * stage.css }));
  canvas.setPointerCapture = () => {};
  fire('pointerdown', 0);
  const times = [];
  for (let i = 1; i <= 60; i++) {
    const start = performance.now();
    fire('pointermove', i / 2);
    // The next task after the next frame: the canvas is on the screen.
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  fire('pointerup', 30);
  const start = performance.now();
  const { api } = document.querySelector('ttm-studio');
  while (!api.idle) await new Promise((done) => setTimeout(done, 1));
  return { times, drawing: stage.timings.slice(-60), exact: performance.now() - start };
}"""


def objects() -> np.ndarray:
  """Return a mask of 8 discs, uint8 [256, 256]."""
  y, x = np.mgrid[:256, :256]
  mask = np.zeros((256, 256), np.uint8)
  for number in range(8):
    cy, cx = 48 + 96 * (number // 4), 32 + 64 * (number % 4)
    mask[(y - cy) ** 2 + (x - cx) ** 2 < 24**2] = number + 1
  return mask


def memory(page: Page, process: subprocess.Popen) -> tuple[float, float]:
  """Return the memory in use by the page's JavaScript and by the server, in MB."""
  client = page.context.new_cdp_session(page)
  client.send('HeapProfiler.collectGarbage')
  heap = client.send('Runtime.getHeapUsage')
  used = heap['usedSize'] + heap.get('backingStorageSize', 0)
  with open(f'/proc/{process.pid}/status') as file:
    (line,) = (line for line in file if line.startswith('VmRSS'))
  return used / 1e6, int(line.split()[1]) / 1e3


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--port', type=int, default=7999, help='port of the server; default 7999')
  args = parser.parse_args()
  process = subprocess.Popen([sys.executable, '-c', _SERVER, str(args.port)])
  try:
    with sync_playwright() as playwright:
      measure(playwright, f'http://127.0.0.1:{args.port}', process)
  finally:
    process.terminate()


def measure(playwright, address: str, process: subprocess.Popen) -> None:
  """Print the time to load, to draw a drag and to compute an edit, and the memory of the page."""
  browser = playwright.chromium.launch(
    executable_path=os.environ.get('TTM_CHROMIUM') or None, args=['--no-sandbox']
  )
  page = browser.new_page(viewport={'width': 1440, 'height': 900})
  for _ in range(240):
    try:
      page.goto(address)
      break
    except Exception:
      time.sleep(0.5)
  ready = []
  for _ in range(5):
    page = browser.new_page(viewport={'width': 1440, 'height': 900})
    page.goto(address)
    page.wait_for_selector('ttm-studio[data-ready]')
    ready.append(int(page.get_attribute('ttm-studio', 'data-ready')) / 1000)
  print(
    f'ready after {statistics.median(ready):.2f} s (of 5: {min(ready):.2f} to {max(ready):.2f})'
  )
  upload(page, np.full((256, 256, 3), 90, np.uint8))
  page.locator('.file', has_text='Mask file').locator('input').set_input_files(
    {'name': 'm.png', 'mimeType': 'image/png', 'buffer': png(objects())}
  )
  page.wait_for_function("document.querySelector('ttm-studio').store.objects.length === 8")
  settled(page)
  page.keyboard.press('v')
  for number in range(1, 9):  # All move, so that no layer is the same in all frames.
    page.evaluate(
      "(n) => document.querySelector('ttm-studio').api.change('handle',"
      " { kind: 'translate', object: n, frame: 127, by: [10, 30] })",
      number,
    )
  settled(page)
  page.evaluate("document.querySelector('ttm-studio').store.set({ frame: 64, selected: 1 })")
  results = []
  for _ in range(5):
    results.append(page.evaluate(_DRAG))
    page.evaluate("document.querySelector('ttm-studio').api.change('undo')")
    settled(page)
  shown = [time for result in results for time in result['times']]
  drawing = [time for result in results for time in result['drawing']]
  exact = [result['exact'] for result in results]
  tail = statistics.quantiles(shown, n=20)[-1]
  print(
    f'drag to redraw: median {statistics.median(shown):.1f} ms, 95 % within {tail:.1f} ms'
    f' (of these, drawing takes {statistics.median(drawing):.1f} ms)'
  )
  print(f'end of the drag to the exact trajectory: median {statistics.median(exact):.0f} ms')
  before = memory(page, process)
  half = before
  for number in range(EDITS):
    x, y = value(page, 'store.object(1).centers[64]')
    drag(page, [(x, y), (x + (3 if number % 2 else -3), y)], steps=3)
    if number == EDITS // 2 - 1:
      half = memory(page, process)
  after = memory(page, process)
  for name, a, b, c in zip(('page', 'server'), before, half, after, strict=True):
    print(
      f'memory of the {name}: {a:.1f} MB, after {EDITS // 2} edits {b:.1f}, after {EDITS} {c:.1f}'
    )
  browser.close()


if __name__ == '__main__':
  main()
