"""The pages of evaluations: gallery, human study and report, on a desktop and on a phone."""

import json
import re
import time

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.helpers import scored
from tests.helpers.accessibility import findings
from tests.helpers.scored import FPS, Brightness, Spread
from ttm_jax.data.clips import Clips
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics import evaluation
from ttm_jax.metrics.agreement import agree
from ttm_jax.metrics.scored_videos import stem_of
from ttm_jax.metrics.votes import QUESTIONS
from ttm_jax.report.results import write_report
from ttm_jax.report.scored_folder import Options, write_scored
from ttm_jax.report.study import count_votes, write_study
from ttm_jax.scenes.generator import SceneConfig, scene

pytestmark = pytest.mark.browser

SIZES = [(1200, 900), (390, 844)]
LIMIT = 20.0  # Seconds until a video shows its frame.
FRAMES = 16
KEYS = ('a/0001', 'b', 'c c', 'a-name-that-is-long-and-has-no-place-to-break-' * 3)
# The frame that each video in the window shows.
SHOWN = f"""() => [...document.querySelectorAll('video')]
  .filter((video) => video.readyState > 1 && video.getBoundingClientRect().top < innerHeight)
  .map((video) => Math.floor(video.currentTime * {FPS}))"""
H264 = """document.createElement('video').canPlayType('video/mp4; codecs="avc1.42E01E"')"""


@pytest.fixture(scope='module')
def systems(tmp_path_factory):
  """Clips of one and two objects, and the videos of two systems for them."""
  root = tmp_path_factory.mktemp('systems')
  clips = [scored.clip(key, number, FRAMES, (48, 64)) for number, key in enumerate(KEYS)]
  data = Clips(scored.save_clips(root / 'clips', clips), 'validation')
  for name, shift in (('ours', 5), ('theirs', 30)):
    for clip in clips:
      write_video(root / name / f'{stem_of(clip.key)}.mp4', clip.video + np.uint8(shift), FPS)
  return root, agree(data, None, str(root / 'ours'), str(root / 'theirs'), [], videos=True)


@pytest.fixture(scope='module')
def gallery(systems):
  root, agreed = systems
  about, metrics = agreed.about('data', 'validation'), (Brightness(), Spread())
  options = Options(draws=50, shown=4)
  write_scored(root / 'scores', agreed.ours, metrics, about, agreed.other, options)
  return root / 'scores' / 'gallery.html'


@pytest.fixture(scope='module')
def study(systems):
  root, agreed = systems
  write_study(root / 'study', agreed.ours, agreed.other, seed=2)
  return root / 'study'


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """The report of an evaluation that generated the clips, darker or shifted."""
  clips = [scene(SceneConfig(size=(48, 48), frames=8), number) for number in range(6)]
  ids = [np.roll(clip.ids, number % 2, 2) for number, clip in enumerate(clips)]
  videos = [clip.video // 2 + 40 for clip in clips]
  motion = {'stage 1': evaluation.motion_values(clips, ids)}
  video = {'both stages': evaluation.video_values(clips, videos, ids)}
  found = evaluation.Evaluation(
    {name: evaluation.averaged(row) for name, row in motion.items()},
    {name: evaluation.averaged(row) for name, row in video.items()},
    *(clips, ids, videos, videos),
    {
      'motion': {name: evaluation.intervals(row) for name, row in motion.items()},
      'video': {name: evaluation.intervals(row) for name, row in video.items()},
    },
  )
  path = tmp_path_factory.mktemp('report') / 'report.html'
  write_report(path, 'Report', 'Of a test.', found, 8.0, 'spread8', {}, samples=3)
  return path


def until(page, condition):
  """Wait until an expression is true; the policy of these pages forbids `wait_for_function`."""
  begin = time.monotonic()
  while not page.evaluate(condition):
    assert time.monotonic() - begin < LIMIT, condition
    page.wait_for_timeout(30)


def fits(page):
  """Check that the page is not wider than the window."""
  wide = page.evaluate('[document.documentElement.scrollWidth, innerWidth]')
  assert wide[0] <= wide[1]


def videos_are_read(page, count):
  """Wait until videos can be shown; skip the test in a browser without their codec."""
  if not page.evaluate(H264):
    pytest.skip('this browser cannot show H.264')
  until(page, f'({SHOWN})().length >= {count}')


def plays_together(page, count):
  """Check that all videos in the window show the frame of the slider, also while they play."""
  videos_are_read(page, count)
  slider = page.get_by_role('slider', name='Frame', exact=True)
  for frame in (3, FRAMES - 1, 0):
    slider.fill(str(frame))
    until(page, f'({SHOWN})().every((shown) => shown === {frame})')
    expect(page.locator('.player output')).to_have_text(f'{frame + 1} / {FRAMES}')
  page.get_by_role('button', name='Play', exact=True).click()
  until(page, f'({SHOWN})().some((shown) => shown > 1) && new Set(({SHOWN})()).size === 1')
  page.get_by_role('button', name='Pause', exact=True).click()
  frame = int(slider.input_value())
  until(page, f'({SHOWN})().every((shown) => shown === {frame})')
  assert page.evaluate("[...document.querySelectorAll('video')].every((video) => video.paused)")


@pytest.mark.parametrize('size', SIZES)
def test_the_gallery(gallery, open_file, size):
  page = open_file(gallery, *size)
  # On a phone, the first videos are below the fold, and are read once they are seen.
  page.locator('article').first.scroll_into_view_if_needed()
  page.locator('article video').nth(1).scroll_into_view_if_needed()
  plays_together(page, 2)
  assert findings(page) == []
  fits(page)
  articles = page.locator('article')
  expect(articles.filter(visible=True)).to_have_count(4)
  chosen = page.get_by_role('combobox', name='Filter by number of objects')
  for value, count in (('1', 2), ('2', 2), ('', 4)):
    chosen.select_option(value)
    expect(articles.filter(visible=True)).to_have_count(count)
    expect(page.locator('#count')).to_have_text(f'{count} of 4 clips')
    fits(page)


@pytest.mark.parametrize('size', SIZES)
def test_the_study(study, open_file, size, tmp_path):
  page = open_file(study / 'page' / 'index.html', *size)
  plays_together(page, 2)
  record = json.loads((study / 'study.json').read_text())
  for number in range(len(KEYS)):
    assert findings(page) == []
    fits(page)
    pair = page.locator('section[data-pair]').filter(visible=True)
    side = next(p['a'] for p in record['pairs'] if p['id'] == pair.get_attribute('data-pair'))
    for name in QUESTIONS:
      pair.locator(f'[data-question={name}] input[value={side}]').check()
    expect(page.locator('#done')).to_have_text(
      f'Pair {number + 1} of {len(KEYS)}; {number + 1} answered'
    )
    if number == 1:  # The browser keeps the answers: a reload resumes at the same pair.
      page.reload()
      expect(page.locator('#done')).to_have_text(f'Pair 3 of {len(KEYS)}; 2 answered')
    elif number < len(KEYS) - 1:
      page.get_by_role('button', name='Next').click()
  expect(page.locator('#finished')).to_be_visible()
  page.get_by_role('textbox').fill('rater 1')
  with page.expect_download() as waiting:
    page.get_by_role('button', name='Download answers').click()
  assert waiting.value.suggested_filename.startswith('votes-')
  file = tmp_path / 'votes.json'
  waiting.value.save_as(file)
  found = count_votes([str(file)], str(study), None, draws=50)
  assert {name: result.percent.value for name, result in found.items()} == dict.fromkeys(
    QUESTIONS, 100
  )


@pytest.mark.parametrize('size, lines', zip(SIZES, (1, 2), strict=True))
def test_the_report(report, open_file, size, lines):
  page = open_file(report, *size)
  fits(page)
  assert findings(page) == []
  for row in page.locator('.panels').all():
    tops = row.locator('img').evaluate_all('(all) => all.map((e) => e.getBoundingClientRect().top)')
    assert len(tops) == 7 and len(set(map(round, tops))) == lines
  cell = page.locator('table').nth(1).locator('td.number').first
  expect(cell).to_have_text(re.compile(r'[\d.]+\[[\d.]+, [\d.]+\]'))
