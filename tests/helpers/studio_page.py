"""Acts of a user on the page of the studio."""

import io
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect


def value(page: Page, expression: str):
  """Return the value of an expression of the page's `store`, `api` and `stage`."""
  parts = "const { store, api, stage } = document.querySelector('ttm-studio')"
  return page.evaluate(f'(() => {{ {parts}; return {expression}; }})()')


def settled(page: Page) -> None:
  """Wait until the answer to the last change is there."""
  page.wait_for_function("document.querySelector('ttm-studio').api.idle")


def png(array) -> bytes:
  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


def upload(page: Page, array, name: str = 'photo.png') -> None:
  """Choose a picture."""
  page.locator('.drop input[type=file]').set_input_files(
    {'name': name, 'mimeType': 'image/png', 'buffer': png(array)}
  )
  expect(page.locator('.stage-canvas')).to_be_visible()
  settled(page)


def drag(page: Page, points, steps: int = 6) -> None:
  """Drag over the canvas along points (x, y) in pixels of the video."""
  canvas = page.locator('.stage-canvas')
  canvas.scroll_into_view_if_needed()
  box = canvas.bounding_box()
  scale = box['width'] / value(page, 'store.about.width')
  places = [(box['x'] + x * scale, box['y'] + y * scale) for x, y in points]
  page.mouse.move(*places[0])
  page.mouse.down()
  for place in places[1:]:
    page.mouse.move(*place, steps=steps)
  page.mouse.up()
  settled(page)


def click(page: Page, name: str, role: str = 'button') -> None:
  """Click on what has a role and exactly this name, and wait for the answer."""
  page.get_by_role(role, name=name, exact=True).click()
  settled(page)


def tab(page: Page, name: str) -> None:
  page.get_by_role('tab', name=name, exact=True).click()


def go(page: Page, frame: int) -> None:
  page.get_by_role('slider', name='Frame', exact=True).fill(str(frame))


def save(page: Page, item: str) -> bytes:
  """Return the content of a download of the menu Save."""
  page.locator('summary', has_text='Save').click()
  with page.expect_download() as waiting:
    page.get_by_role('button', name=item, exact=True).click()
  return waiting.value.path().read_bytes()


def trajectory(page: Page):
  """Return the trajectory that the page downloads, uint8 [T, H, W]."""
  with zipfile.ZipFile(io.BytesIO(save(page, 'Trajectory as palette PNGs'))) as file:
    frames = [np.array(Image.open(file.open(name))) for name in sorted(file.namelist())]
  return np.stack(frames)


def drawn(page: Page, frame: int):
  """Return the objects that the canvas shows in a frame, uint8 [H, W]."""
  labels = value(page, f'Array.from(stage.labels({frame}))')
  about = value(page, 'store.about')
  return np.array(labels, np.uint8).reshape(about['height'], about['width'])
