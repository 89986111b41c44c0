"""A whole story in a browser, with real networks: from a picture to a video that is downloaded.

The networks have random weights. With `TTM_DEMO=runs/demo`, those of a demo that was trained there
tell the story again.
"""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers import exported, studio_page, tiny
from tests.helpers.studio_page import click, drag, go, save, settled, tab, trajectory, value
from ttm_jax import trajectory_edits
from ttm_jax.studio.jax_runs import JaxRuns

pytestmark = pytest.mark.browser

FRAMES = 8  # Those of the demo.
GRID = (FRAMES // 2, *tiny.LATENTS[1:])


@pytest.fixture(scope='module')
def address(tmp_path_factory, serve):
  """A studio of the demo's configurations at the size of the tests, with random weights."""
  return serve(JaxRuns(*random_runs(tmp_path_factory)))


def demo_runs():
  """Return the runs of the demo at TTM_DEMO."""
  if not (folder := os.environ.get('TTM_DEMO')):
    pytest.skip('TTM_DEMO names no folder of a trained demo')
  return [str(Path(folder, name)) for name in ('stage1', 'stage2')]


def random_runs(tmp_path_factory):
  where = exported.context('dit', frames=FRAMES)
  runs = []
  for number in (exported.STAGE1, exported.STAGE2):
    settings = exported.config('dit', number, model__grid=GRID)
    path = tmp_path_factory.mktemp('runs') / f'stage{number + 1}'
    params = exported.parameters(settings, where, number)
    runs.append(str(exported.save_run(path, settings, where, params)))
  return runs


def picture(scale):
  """Two squares on noise, [16 * scale, 16 * scale, 3]."""
  pixels = np.random.default_rng(0).integers(80, 120, (tiny.SIDE, tiny.SIDE, 3)).astype(np.uint8)
  pixels[3:7, 2:6], pixels[9:14, 9:14] = (220, 40, 40), (40, 60, 220)
  return pixels.repeat(scale, 0).repeat(scale, 1)


def saved(page):
  """Return base and edits of the project that the page downloads, and its trajectory."""
  with zipfile.ZipFile(io.BytesIO(save(page, 'Project file'))) as file:
    about = json.loads(file.read('project.json'))

    def frames(folder):
      names = sorted(name for name in file.namelist() if name.startswith(f'{folder}/'))
      return np.stack([np.array(Image.open(file.open(name))) for name in names])

    return frames('base'), about['edits'], frames('trajectory')


@pytest.mark.parametrize('trained', [False, True], ids=['random', 'trained'])
def test_from_a_picture_to_a_video(trained, serve, open_page, request):
  address = serve(JaxRuns(*demo_runs())) if trained else request.getfixturevalue('address')
  page = open_page(address)
  side = value(page, 'store.about.width')
  scale = side // tiny.SIDE

  def stroke(*points):
    drag(page, [(x * scale, y * scale) for x, y in points])

  studio_page.upload(page, picture(scale))

  # Paint two objects, and say what they do.
  page.get_by_role('textbox', name='Caption: what the video shows').fill('A red and a blue square.')
  stroke((3, 4), (5, 6))
  click(page, 'Add object')
  stroke((10, 10), (13, 13), (10, 13))
  page.get_by_role('textbox', name='Prompt of object 1').fill('a red square that moves')
  page.get_by_role('textbox', name='Name of object 2').fill('blue square')
  page.keyboard.press('Tab')
  settled(page)
  mask = studio_page.drawn(page, 0)
  assert sorted(np.unique(mask)) == [0, 1, 2]

  # Let stage 1 propose, and pick one.
  tab(page, 'Propose')
  page.get_by_role('textbox', name='Motion prompt: what moves, and how').fill('The square moves.')
  page.get_by_role('combobox', name='Proposals').select_option('2')
  click(page, 'Propose motion')
  expect(page.locator('.proposal')).to_have_count(2, timeout=120_000)
  expect(page.locator('.proposal img[src]')).to_have_count(2)
  click(page, 'Use the proposal with seed 1')
  expect(page.locator('.proposal[aria-pressed=true]')).to_have_count(1)
  proposed = trajectory(page)
  assert proposed.shape == (FRAMES, side, side) and (proposed[0] == mask).all()

  # Drag object 1 along a path, hide object 2 after frame 5.
  tab(page, 'Edit')
  go(page, 0)
  page.keyboard.press('1')
  page.keyboard.press('p')
  stroke((4, 5), (8, 3), (12, 6))
  click(page, 'Select blue square')
  go(page, 6)
  click(page, 'Hide from here')
  edited = trajectory(page)

  # What the page downloads is what the functions compute.
  base, edits, stored = saved(page)
  follow, hide = edits
  assert (follow['kind'], follow['object'], follow['start']) == ('follow', 1, 0)
  assert hide == {'kind': 'hide', 'object': 2, 'start': 6}
  layers = {obj: np.where(base >> (obj - 1) & 1, obj, 0).astype(np.uint8) for obj in (1, 2)}
  assert (trajectory_edits.merge(layers) == proposed).all()
  layers[1] = trajectory_edits.follow(layers[1], 1, follow['points'], 0)
  layers[2] = trajectory_edits.hide(layers[2], 2, 6)
  assert (edited == trajectory_edits.merge(layers)).all() and (stored == edited).all()
  for frame in range(FRAMES):
    assert (studio_page.drawn(page, frame) == edited[frame]).all()
  assert (edited[6:] != 2).all() and (edited[5] == 2).any()

  # Undo restores it bit by bit.
  page.keyboard.press('Control+z')
  page.keyboard.press('Control+z')
  settled(page)
  assert (trajectory(page) == proposed).all()
  page.keyboard.press('Control+Shift+Z')
  page.keyboard.press('Control+Shift+Z')
  settled(page)
  assert (trajectory(page) == edited).all()

  # Render, look at it, and download it.
  tab(page, 'Render')
  click(page, 'Preview')
  expect(page.locator('.render')).to_have_count(1, timeout=120_000)
  click(page, 'Render video')
  expect(page.locator('.render')).to_have_count(2, timeout=120_000)
  expect(page.get_by_role('img', name='Video', exact=True)).to_be_visible()
  for view in ('Slider', 'Overlay', 'Two videos', 'Side by side'):
    click(page, view)
  number = value(page, 'store.render')
  with page.expect_download() as waiting:
    page.get_by_role('button', name=f'Download as GIF: video {number}').click()
  with Image.open(waiting.value.path()) as image:
    assert image.n_frames == FRAMES
  page.locator('.render summary').first.click()
  page.get_by_role('button', name=f'Copy the command line of video {number}').click()
  expect(page.get_by_text('The command line is copied.')).to_be_visible()
  copied = page.evaluate('navigator.clipboard.readText()')
  assert copied.startswith('python -m ttm_jax.generate --stage1') and '--steps 10' in copied

  # A reload brings all of it back.
  page.reload()
  page.wait_for_selector('ttm-studio[data-ready]')
  assert (trajectory(page) == edited).all() and len(value(page, 'store.state.renders')) == 2
  assert value(page, 'store.state.caption') == 'A red and a blue square.'


def test_two_sessions_do_not_mix(address, open_page):
  first, second = open_page(address), open_page(address)
  first.locator('.example').nth(0).click()
  second.locator('.example').nth(1).click()
  for page in (first, second):
    expect(page.locator('.stage-canvas')).to_be_visible()
    settled(page)
  captions = [value(page, 'store.state.caption') for page in (first, second)]
  before = trajectory(second)
  first.keyboard.press('v')
  first.locator('.stage-canvas').focus()
  first.keyboard.press('ArrowRight')
  settled(first)
  second.reload()
  second.wait_for_selector('ttm-studio[data-ready]')
  assert captions[0] != captions[1] == value(second, 'store.state.caption')
  assert (trajectory(second) == before).all() and not value(second, 'store.state.undo')
  assert value(first, 'store.state.undo').startswith('Move object')
