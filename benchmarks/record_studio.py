"""Record the studio's story as the GIF of the documentation.

    python -m ttm_jax.studio --stage1 runs/demo/stage1 --stage2 runs/demo/stage2 --port 7861 &
    python -m benchmarks.record_studio --address http://127.0.0.1:7861 --out docs/studio.gif

An example picture, proposals, one object along a path, another one that stops being there, and the
video: each step is a screenshot. The browser is that of Playwright, or the one of TTM_CHROMIUM.
"""

import argparse
import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.helpers.studio_page import click, go, settled, tab, value

SIZE = 1120, 700
SHOWN = 860  # Width of the GIF in pixels.
COLORS = 256
# A dot where the pointer is, which screenshots do not show.
_POINTER = """() => {
  const dot = document.createElement('div');
  Object.assign(dot.style, {
    position: 'fixed', zIndex: 99999, width: '18px', height: '18px', margin: '-9px', left: '-50px',
    borderRadius: '50%', background: '#fff9', border: '2px solid #fff', pointerEvents: 'none',
    boxShadow: '0 0 0 2px #0006',
  });
  document.body.append(dot);
  addEventListener('pointermove', (event) => {
    Object.assign(dot.style, { left: `${event.clientX}px`, top: `${event.clientY}px` });
  }, true);
}"""
_WAIT = 300_000  # Milliseconds for the networks.


def wait_for(page: Page, condition: str) -> None:
  """Wait until an expression of the page's `store` is true."""
  page.wait_for_function(f"document.querySelector('ttm-studio').{condition}", timeout=_WAIT)


class Recorder:
  """Screenshots with the time that each is shown."""

  def __init__(self, page: Page):
    self.page = page
    self.frames: list[Image.Image] = []
    self.milliseconds: list[int] = []

  def __call__(self, milliseconds: int = 600) -> None:
    image = Image.open(io.BytesIO(self.page.screenshot())).convert('RGB')
    height = round(SHOWN * image.height / image.width)
    self.frames.append(image.resize((SHOWN, height), Image.Resampling.LANCZOS))
    self.milliseconds.append(milliseconds)

  def save(self, path: Path) -> None:
    """Write the frames with one palette, so that equal parts stay equal."""
    sample = self.frames[:: max(1, len(self.frames) // 12)]
    strip = Image.new('RGB', (SHOWN, sum(f.height for f in sample)))
    top = 0
    for frame in sample:
      strip.paste(frame, (0, top))
      top += frame.height
    palette = strip.quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    first, *rest = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in self.frames]
    first.save(path, save_all=True, append_images=rest, duration=self.milliseconds, loop=0)


def play(page: Page, shoot: Recorder, name: str) -> None:
  """Record the frames of the clip once."""
  page.evaluate("document.querySelector('ttm-studio').store.set({ playing: false })")
  for frame in range(value(page, 'store.about.frames')):
    go(page, frame)
    page.wait_for_timeout(60)
    shoot(150)
  shoot(500)


def story(page: Page, shoot: Recorder, example: int, moved: str, gone: str, path: list) -> None:
  """Go through the studio with an example picture, from proposals to a video."""
  page.locator('.example img').first.wait_for()
  shoot(900)
  page.locator('.example').nth(example).hover()
  shoot(400)
  page.locator('.example').nth(example).click()
  page.locator('.stage-canvas').wait_for()
  settled(page)
  page.wait_for_timeout(300)
  shoot(1200)
  tab(page, 'Propose')
  click(page, 'Propose motion')
  shoot(500)
  page.wait_for_function(
    "document.querySelector('ttm-studio').store.state.proposals.length === 4", timeout=300_000
  )
  page.wait_for_timeout(800)
  shoot(1200)
  page.locator('.proposal').nth(1).click()
  settled(page)
  page.wait_for_timeout(300)
  play(page, shoot, 'proposal')
  tab(page, 'Edit')
  page.get_by_role('button', name=f'Select {moved}', exact=True).click()
  go(page, 0)
  page.get_by_role('button', name='Draw a path').click()
  shoot(700)
  canvas = page.locator('.stage-canvas').bounding_box()
  scale = canvas['width'] / value(page, 'store.about.width')
  number = value(page, f"store.objects.find((o) => o.name === '{moved}').id")
  x, y = value(page, f'store.object({number}).centers[0]')
  at = [
    (canvas['x'] + (x + dx + 0.5) * scale, canvas['y'] + (y + dy + 0.5) * scale) for dx, dy in path
  ]
  page.mouse.move(*at[0])
  page.mouse.down()
  for place in at[1:]:
    page.mouse.move(*place, steps=5)
    page.wait_for_timeout(150)
    shoot(180)
  page.mouse.up()
  settled(page)
  shoot(700)
  page.keyboard.press('v')
  page.get_by_role('button', name=f'Select {gone}', exact=True).click()
  go(page, 5)
  shoot(500)
  click(page, 'Hide from here')
  shoot(900)
  play(page, shoot, 'edited')
  tab(page, 'Render')
  click(page, 'Render video')
  page.wait_for_timeout(600)
  shoot(700)
  page.wait_for_function(
    "document.querySelector('ttm-studio').store.state.renders.length === 1", timeout=300_000
  )
  page.wait_for_timeout(800)
  for _ in range(2):
    play(page, shoot, 'video')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--address', required=True, help='address of a running studio')
  add('--out', type=Path, required=True, help='the GIF to write')
  add('--example', type=int, default=5, help='number of the example picture; default 5')
  add('--moved', default='red ring', help='name of the object that is dragged')
  add('--gone', default='blue diamond', help='name of the object that is hidden')
  args = parser.parse_args()
  path = [(-2.5 * i, 0) for i in range(7)]  # Straight to the left, as objects move in training.
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=os.environ.get('TTM_CHROMIUM') or None, args=['--no-sandbox']
    )
    page = browser.new_page(viewport={'width': SIZE[0], 'height': SIZE[1]})
    page.goto(args.address)
    page.wait_for_selector('ttm-studio[data-ready]')
    page.evaluate(_POINTER)
    shoot = Recorder(page)
    story(page, shoot, args.example, args.moved, args.gone, path)
    shoot.save(args.out)
    browser.close()
  print(f'{args.out}: {len(shoot.frames)} frames, {args.out.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
  main()
