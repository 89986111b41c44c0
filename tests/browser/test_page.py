"""The page with a stub backend: its errors, tools, keys, sizes, and what screen readers find."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers import studio_page
from tests.helpers.accessibility import findings
from tests.helpers.studio_page import click, drag, go, settled, tab, trajectory, upload, value
from tests.helpers.studio_server import serving
from tests.helpers.studio_stub import LIMITS, StubBackend
from ttm_jax.studio.project import Project
from ttm_jax.studio.project_file import archive, save

pytestmark = pytest.mark.browser

SIZES = [(1440, 900), (1024, 768), (390, 844)]
SHAPE = LIMITS.height, LIMITS.width
# The browser writes each refused request to its console.
REFUSED = ('the server responded with a status of 4', 'status of 413')


def noise(height=SHAPE[0], width=SHAPE[1]):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def page(stub, open_page):
  """A page with the second example, still."""
  opened = open_page(stub[1], expected=REFUSED)
  opened.locator('.example').nth(1).click()
  expect(opened.locator('.stage-canvas')).to_be_visible()
  settled(opened)
  return opened


def error(page, text):
  expect(page.locator('.message.error', has_text=text).first).to_be_visible()


def take(page, menu_item, name, content):
  """Give a file to an item of the menu Open."""
  field = page.locator('.file', has_text=menu_item).locator('input')
  field.set_input_files({'name': name, 'mimeType': 'application/octet-stream', 'buffer': content})


def project_file(**about):
  made = Project(LIMITS)
  made.start(noise(), np.zeros(SHAPE, np.uint8))
  with zipfile.ZipFile(io.BytesIO(save(made))) as file:
    content = {name: file.read(name) for name in file.namelist()}
  content['project.json'] = json.dumps({**json.loads(content['project.json']), **about}).encode()
  return content


def test_every_error_is_shown_and_leaves_the_project(stub, page):
  backend, _ = stub
  before, undo = trajectory(page), value(page, 'store.state.undo')
  photo = studio_page.png

  for content, text in (
    (b'broken', 'not a readable image'),
    (photo(noise(8, 8)), '8 x 8 pixels; each side must have 16 at least'),
    (photo(np.zeros((8, 30_000, 3), np.uint8)), '30000 x 8 pixels; scale it down to 16384 a side'),
  ):
    take(page, 'New picture', 'a.png', content)
    error(page, text)
  many = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE) % 300
  for content, text in (
    (photo(many.astype(np.uint16)), 'holds 299 values'),
    (photo(np.zeros(SHAPE, np.uint8)), 'shows no object'),
  ):
    take(page, 'Mask file', 'm.png', content)
    error(page, text)

  old, cut, leads = project_file(version=7), archive(project_file())[:-300], project_file()
  leads['../../evil.png'] = b''
  for content, text in (
    (archive(old), 'has version 7, this studio reads version 1'),
    (cut, 'damaged or cut off'),
    (archive(leads), "an entry '../../evil.png'"),
  ):
    take(page, 'Project file', 'p.ttm.zip', content)
    error(page, text)
  take(page, 'Boxes (JSON)', 'b.json', b'{}')
  error(page, 'the file of boxes must hold')
  take(page, 'Point tracks (JSON)', 't.json', b'{}')
  error(page, 'the file of tracks must be a list')
  take(page, 'Cut-and-drag clip', 'c.mp4', b'no video')
  error(page, 'c.mp4')

  caption = page.get_by_role('textbox', name='Caption: what the video shows')
  kept = caption.input_value()
  for text, message in (('word ' * 2000, '2000 words'), ('A <b>dog</b>.', 'contains markup (<b>)')):
    caption.fill(text)
    page.keyboard.press('Tab')
    error(page, message)
  caption.fill('')
  page.keyboard.press('Tab')
  settled(page)
  tab(page, 'Render')
  click(page, 'Preview')
  error(page, 'the caption is empty')
  caption.fill(kept)
  page.keyboard.press('Tab')
  settled(page)

  page.keyboard.press('Escape')
  page.get_by_role('spinbutton', name='Steps').last.fill('5000')
  click(page, 'Preview')
  error(page, '5000 steps: choose 1 to 1000')
  page.get_by_role('spinbutton', name='Steps').last.fill('')
  backend.error = RuntimeError('device lost')
  click(page, 'Preview')
  error(page, 'failed (RuntimeError: device lost). Your project is unchanged.')
  assert backend.calls[-1].steps > 1, 'it failed after some steps'

  tab(page, 'Edit')
  click(page, 'Move camera until this frame')
  error(page, 'pin objects first')
  go(page, LIMITS.frames - 1)
  page.get_by_role('button', name='Draw a path').click()
  drag(page, [(10, 10), (20, 20)])
  error(page, 'go to an earlier one first')
  assert (trajectory(page) == before).all() and value(page, 'store.state.undo') == undo


def test_a_mask_of_another_size_is_fitted_and_told(page):
  mask = np.zeros((60, 60), np.uint8)
  mask[20:40, 20:40] = 2
  take(page, 'Mask file', 'm.png', studio_page.png(mask))
  told = page.locator('.message.note', has_text='m.png is 60 x 60, of another shape')
  expect(told).to_be_visible()
  assert set(np.unique(studio_page.drawn(page, 0))) == {0, 2}


def test_a_path_that_leaves_the_picture(page):
  page.keyboard.press('p')
  x, y = value(page, 'store.object(1).centers[0]')
  drag(page, [(x, y), (-40, y)])
  assert value(page, 'store.state.edits.length') == 1
  expect(page.get_by_role('status', name='Notes on the motion')).to_contain_text(
    'Object 1 is not visible in frames'
  )
  before = trajectory(page)
  outside = {'kind': 'follow', 'object': 1, 'points': [[-50, -50], [-9, -9]], 'start': 0}
  page.evaluate(
    "(edit) => document.querySelector('ttm-studio').api.change('edit', {edit})", outside
  )
  error(page, 'the path lies outside of the picture')
  assert (trajectory(page) == before).all()


def test_a_restart_of_the_server_brings_the_project_back(tmp_path, open_page):
  with serving(StubBackend(), work=tmp_path) as address:
    page = open_page(address, expected=('ERR_', 'Failed to load', *REFUSED))
    page.locator('.example').nth(1).click()
    expect(page.locator('.stage-canvas')).to_be_visible()
    settled(page)
    page.keyboard.press('v')
    page.locator('.stage-canvas').focus()
    page.keyboard.press('Shift+ArrowLeft')
    settled(page)
    tab(page, 'Render')
    click(page, 'Preview')
    expect(page.locator('.render')).to_have_count(1)
    before, caption = trajectory(page), value(page, 'store.state.caption')
  port = int(address.rpartition(':')[2])
  with serving(StubBackend(), work=tmp_path, port=port):
    # The page reconnects without a reload; videos are not kept, and numbers begin at 1 again.
    tab(page, 'Render')
    click(page, 'Preview')
    page.wait_for_function(
      "document.querySelector('ttm-studio').store.state.jobs.every((job) => job.status === 'done')"
    )
    expect(page.locator('.render strong')).to_have_text('Video 1')
    page.reload()
    page.wait_for_selector('ttm-studio[data-ready]')
    expect(page.locator('.stage-canvas')).to_be_visible()
    assert (trajectory(page) == before).all() and value(page, 'store.state.caption') == caption
    click(page, 'Undo')
    assert value(page, 'store.state.edits.length') == 0


def test_notes_appear_with_the_edit(page):
  tab(page, 'Edit')
  go(page, 3)
  click(page, 'Hide from here')
  expect(page.get_by_role('status', name='Notes on the motion')).to_contain_text(
    'Object 1 is not visible in frames 3 to 11.'
  )
  click(page, 'Undo')
  expect(page.get_by_role('status', name='Notes on the motion')).to_be_hidden()


@pytest.mark.parametrize('how', ['paste', 'drop'])
def test_a_picture_that_is_pasted_or_dropped(stub, open_page, how):
  page = open_page(stub[1])
  data = list(studio_page.png(noise()))
  page.evaluate(
    """([how, data]) => {
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(data)], 'a.png', { type: 'image/png' }));
      const root = document.querySelector('ttm-studio').shadowRoot;
      const target = how === 'paste' ? document : root.querySelector('.view');
      target.dispatchEvent(
        how === 'paste'
          ? new ClipboardEvent('paste', { clipboardData: files })
          : new DragEvent('drop', { dataTransfer: files })
      );
    }""",
    [how, data],
  )
  expect(page.locator('.stage-canvas')).to_be_visible()


def test_an_animated_picture_is_told(page):
  frames = [Image.fromarray(noise()) for _ in range(2)]
  file = io.BytesIO()
  frames[0].save(file, 'GIF', save_all=True, append_images=[Image.fromarray(255 - noise())])
  take(page, 'New picture', 'a.gif', file.getvalue())
  expect(page.locator('.message.note', has_text='its first frame is used')).to_be_visible()


def test_a_server_that_is_gone_and_comes_back(serve, open_page):
  address = serve(StubBackend())
  page = open_page(address, expected=('ERR_', 'Failed to load'))
  page.locator('.example').first.click()
  settled(page)
  page.route('**/studio/api/**', lambda route: route.abort())
  page.keyboard.press('o')
  page.locator('.stage-canvas').focus()
  page.keyboard.press('ArrowRight')
  error(page, 'The studio does not answer. Your project is kept there')
  page.unroute('**/studio/api/**')
  page.keyboard.press('ArrowRight')
  settled(page)
  assert value(page, 'store.state.edits.length') == 1


def test_a_session_that_is_lost_begins_anew(page):
  page.evaluate("sessionStorage.setItem('ttm-studio-session', 'gone')")
  page.reload()
  page.wait_for_selector('ttm-studio[data-ready]')
  expect(page.get_by_role('heading', name='Begin with a picture')).to_be_visible()


def test_progress_and_cancel(stub, page):
  backend, _ = stub
  backend.gate.clear()
  tab(page, 'Render')
  click(page, 'Render video')
  click(page, 'Render video')
  expect(page.locator('.job', has_text='waiting, 1 before it')).to_be_visible()
  page.locator('.job').last.get_by_role('button', name='Cancel').click()
  expect(page.locator('.job')).to_have_count(1)
  page.locator('.job').get_by_role('button', name='Cancel').click()
  settled(page)
  backend.gate.set()
  expect(page.locator('.job')).to_have_count(0)
  assert value(page, 'store.state.renders.length') == 0
  expect(page.get_by_text('cancelled.').first).to_be_visible()


def test_paint_with_every_tool(stub, open_page):
  page = open_page(stub[1], expected=REFUSED)
  picture = np.full((*SHAPE, 3), 60, np.uint8)
  picture[4:12, 4:12] = 220
  upload(page, picture)
  page.keyboard.press('f')
  drag(page, [(7, 7), (7, 7)])
  mask = studio_page.drawn(page, 0)
  assert (mask == 1).sum() == 64 and mask[4:12, 4:12].all()
  click(page, 'Add object')
  page.keyboard.press('l')
  drag(page, [(20, 10), (30, 10), (30, 20), (20, 20), (20, 10)])
  area = (studio_page.drawn(page, 0) == 2).sum()
  assert 80 <= area <= 130
  page.keyboard.press('e')
  drag(page, [(20, 15), (30, 15)])
  assert (studio_page.drawn(page, 0) == 2).sum() < area
  click(page, 'Add object')
  page.get_by_role('button', name='Segment by clicks').click()
  drag(page, [(36, 8), (44, 16)])
  expect(page.locator('.row')).to_have_count(3)
  page.wait_for_function("document.querySelector('ttm-studio').store.object(3).layer")
  assert (studio_page.drawn(page, 0) == 3).sum() == 64
  page.keyboard.press('b')
  page.get_by_role('combobox', name='Paint').select_option('frame')
  go(page, 4)
  drag(page, [(40, 26), (42, 26)])
  assert (studio_page.drawn(page, 4) == 3).sum() > 64 and (
    studio_page.drawn(page, 3) == 3
  ).sum() == 64


def test_move_scale_and_rotate_with_the_pointer(page):
  tab(page, 'Edit')
  go(page, 6)
  page.keyboard.press('v')
  x, y = value(page, 'store.object(3).centers[6]')
  drag(page, [(x + 0.5, y + 0.5), (x + 6.5, y - 3.5)])
  assert value(page, 'store.object(3).centers[6]') == [round(x + 6, 2), round(y - 4, 2)]
  x0, _, x1, y1 = value(page, 'api.layers.box(store.object(3).layer, 6)')
  drag(page, [(x1, y1), (x1 + 4, y1 + 4)])
  bx = value(page, 'api.layers.box(store.object(3).layer, 6)')
  assert bx[2] - bx[0] > x1 - x0
  kinds = value(page, 'store.state.edits.map((e) => [e.kind, e.keys])')
  assert kinds == [['translate', [0, 6]], ['scale', [0, 6]]]
  # The keyframe goes to another frame, and away.
  key = page.locator('.key[aria-label*="Move object 3"]').last
  expect(key).to_have_attribute(
    'aria-label', 'Keyframe at frame 6: Move object 3 (keys 0, 6). Delete removes it.'
  )
  key.focus()
  page.keyboard.press('Delete')
  settled(page)
  assert value(page, 'store.state.edits[0].keys') == [0]


def test_edits_of_the_panel(page):
  tab(page, 'Edit')
  go(page, 4)
  page.get_by_role('spinbutton', name='Scale %').fill('150')
  click(page, 'Scale')
  page.get_by_role('spinbutton', name='Rotate °').fill('45')
  click(page, 'Rotate')
  for name in (
    'Flip left and right',
    'Hold from here',
    'Pin as here',
    'To back',
    'Forward',
    'Duplicate',
  ):
    click(page, name)
  page.get_by_role('spinbutton', name='Speed factor').fill('2')
  click(page, 'Retime')
  click(page, 'Reverse')
  click(page, 'Select purple star')
  page.get_by_role('spinbutton', name='Pan x').fill('6')
  click(page, 'Move camera until this frame')
  click(page, 'Delete')
  kinds = value(page, 'store.state.edits.map((e) => e.kind)')
  assert kinds[:8] == ['scale', 'rotate', 'flip', 'hold', 'pin', 'depth', 'depth', 'duplicate']
  assert kinds[8:] == ['retime', 'retime', 'camera', 'delete']
  assert value(page, 'store.state.edits[8].object') == 4, 'the copy is selected'
  page.get_by_role('button', name='Remove: Delete object 1').click()
  settled(page)
  assert value(page, 'store.state.edits.length') == 11


def test_the_speed_of_a_path(page):
  page.keyboard.press('p')
  x, y = value(page, 'store.object(1).centers[0]')
  drag(page, [(x, y), (x - 20, y + 4)])
  tab(page, 'Edit')
  before = value(page, 'store.object(1).centers[5]')
  page.get_by_role('combobox', name='Speed').select_option('slow start')
  settled(page)
  after = value(page, 'store.object(1).centers[5]')
  assert after[0] > before[0] + 3, 'it is still near its start'
  handle = page.get_by_role('slider', name='Way at 50 % of the time')
  handle.focus()
  page.keyboard.press('ArrowUp')
  settled(page)
  assert value(page, 'store.state.edits[0].speed[2]') == [0.5, 0.3]
  assert value(page, 'store.state.edits.length') == 1


def test_playback_at_the_rate_of_the_clip(page):
  page.keyboard.press('Home')
  page.keyboard.press(' ')
  page.wait_for_function("document.querySelector('ttm-studio').store.frame > 3")
  page.keyboard.press(' ')
  assert not value(page, 'store.playing')
  page.keyboard.press('.')
  page.keyboard.press('End')
  assert value(page, 'store.frame') == LIMITS.frames - 1


def test_with_the_keyboard_alone(stub, open_page):
  page = open_page(stub[1])

  def reach(name):
    for _ in range(60):
      page.keyboard.press('Tab')
      label = page.evaluate(
        "(() => { const e = document.querySelector('ttm-studio').shadowRoot.activeElement;"
        " return e && (e.getAttribute('aria-label') || e.textContent || e.id); })()"
      )
      if label and name in label:
        return
    raise AssertionError(f'{name} is not reached')

  expect(page.locator('.example img').first).to_be_visible()
  page.locator('.example').first.focus()
  page.keyboard.press('Enter')
  expect(page.locator('.stage-canvas')).to_be_visible()
  settled(page)
  page.keyboard.press('v')
  page.keyboard.press('2')
  reach('Frame 0 of 12')
  page.keyboard.press('.')
  page.keyboard.press('.')
  page.keyboard.press('Shift+ArrowLeft')
  settled(page)
  assert value(page, 'store.state.edits[0].path') == {'0': [0, 0], '2': [-5, 0]}
  reach('Propose')
  page.keyboard.press('ArrowRight')
  page.keyboard.press('ArrowRight')
  reach('Render video')
  page.keyboard.press('Enter')
  expect(page.locator('.render')).to_have_count(1)
  page.keyboard.press('?')
  expect(page.get_by_role('dialog')).to_be_visible()
  page.keyboard.press('Escape')
  expect(page.get_by_role('dialog')).to_be_hidden()


@pytest.mark.parametrize('size', SIZES)
def test_screen_readers_and_sizes(stub, open_page, size):
  page = open_page(stub[1], *size)
  expect(page.locator('.example img').first).to_be_visible()
  assert findings(page) == []
  page.locator('.example').nth(1).click()
  expect(page.locator('.stage-canvas')).to_be_visible()
  settled(page)
  page.keyboard.press('p')
  drag(page, [(38, 18), (20, 24), (12, 8)])
  tab(page, 'Propose')
  click(page, 'Propose motion')
  expect(page.locator('.proposal img[src]')).to_have_count(4)
  names = ['Propose', 'Edit', 'Render'] + (['Scene'] if size[0] < 900 else [])
  tab(page, 'Render')
  click(page, 'Preview')
  expect(page.locator('.render')).to_have_count(1)
  click(page, 'Render video')
  expect(page.locator('.render')).to_have_count(2)
  for view in ('Side by side', 'Slider', 'Two videos', 'Edit'):
    click(page, view)
    assert findings(page) == [], view
  for name in names:
    tab(page, name)
    assert findings(page) == [], name
    wide = page.evaluate(
      "[document.documentElement, document.querySelector('ttm-studio').shadowRoot"
      ".querySelector('.app')].map((e) => e.scrollWidth)"
    )
    assert max(wide) <= size[0], f'{name} is wider than the window'
  page.keyboard.press('?')
  assert findings(page) == []
