"""The page of a human study: neutral, random, repeatable; and the count of its votes."""

import json

import numpy as np
import pytest

from tests.helpers import scored
from tests.helpers.pages import Page
from tests.helpers.scored import FPS, HEIGHT, KEYS, WIDTH
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.media.images import read_image
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.agreement import agree
from ttm_jax.metrics.votes import QUESTIONS, read_study
from ttm_jax.report.study import count_votes, write_study


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """Videos of two systems: A is brighter than its clips by 10, B by 30."""
  root = tmp_path_factory.mktemp('systems')
  for seed in (0, 1):  # Only the first seed is shown.
    scored.save_videos(root / 'secret_a', 10 + 50 * seed, seed=seed)
  scored.save_videos(root / 'secret_b', 30)
  clips = Clips(scored.save_clips(root / 'clips'), 'validation')
  agreed = agree(clips, None, str(root / 'secret_a'), str(root / 'secret_b'), [], videos=True)
  return agreed.ours, agreed.other


@pytest.fixture(scope='module')
def study(pair, tmp_path_factory):
  folder = tmp_path_factory.mktemp('study')
  write_study(folder, *pair, seed=2)
  return folder


def sections(page):
  """Return the id, image and videos of each pair of a page."""
  found, media = [], iter(page.sources)
  for tag, given in page.attributes:
    if tag == 'section':
      found.append((given['data-pair'], *(next(media) for _ in range(3))))
  return found


def test_the_page_shows_every_pair(study):
  page = Page(study / 'page' / 'index.html')
  page.check_policy()
  record = read_study(study)
  assert [pair.id for pair in record.pairs] == ['p0001', 'p0002', 'p0003', 'p0004']
  assert sorted(pair.key for pair in record.pairs) == sorted(KEYS)
  assert [pair.key for pair in record.pairs] != list(KEYS)  # The seed shuffles them.
  assert {pair.a for pair in record.pairs} == {'left', 'right'}
  assert [shown[0] for shown in sections(page)] == [pair.id for pair in record.pairs]
  for pair, (_, image, left, right) in zip(record.pairs, sections(page), strict=True):
    gray = 40 * (KEYS.index(pair.key) + 1)
    np.testing.assert_array_equal(read_image(study / 'page' / image), np.uint8(gray))
    videos = {'left': left, 'right': right}
    for side, place in videos.items():
      video, fps = read_video(study / 'page' / place)
      assert video.shape[1:] == (HEIGHT, WIDTH, 3) and fps == FPS
      brighter = 10 if side == pair.a else 30
      np.testing.assert_allclose(video, gray + brighter, atol=3)
    assert f'Motion of {pair.key}.' in page.text
  assert all(page.text.count(question) == 4 for question in QUESTIONS.values())


def test_the_page_hides_which_is_which(study):
  markup = (study / 'page' / 'index.html').read_text().split('<main')[1]
  assert not [word for word in ('secret', '_a', '_b', str(study)) if word in markup]
  names = [p.name for p in (study / 'page' / 'media').iterdir()]
  assert len(names) == 12 and len({len(name) for name in names}) == 1
  assert {p.name for p in study.iterdir()} == {'page', 'study.json'}
  assert {p.name for p in (study / 'page').iterdir()} == {'index.html', 'media'}


def test_a_study_repeats_by_its_seed(pair, study, tmp_path):
  same = write_study(tmp_path / 'same', *pair, seed=2)
  other = write_study(tmp_path / 'other', *pair, seed=9)
  assert same == read_study(study) and other.id != same.id
  pages = [(folder / 'page' / 'index.html').read_bytes() for folder in (tmp_path / 'same', study)]
  assert pages[0] == pages[1]


def test_votes_are_counted(study, tmp_path, capsys):
  record = read_study(study)
  answers = {pair.id: dict.fromkeys(QUESTIONS, pair.a) for pair in record.pairs}
  del answers['p0002']['motion']
  votes = tmp_path / 'votes.json'
  votes.write_text(json.dumps({'study': record.id, 'rater': '1', 'name': 'x', 'answers': answers}))
  out = tmp_path / 'out'
  found = count_votes([str(votes)], str(study), str(out), draws=100)
  assert found['text'].percent.value == 100 and found['motion'].pairs == 3
  written = json.loads((out / 'votes.json').read_text())
  assert written['questions']['quality'] == {
    'value': 100.0,
    'low': 100.0,
    'high': 100.0,
    'pairs': 4,
    'ties': 0,
    'agreement': 1.0,
  }
  text = (out / 'votes.md').read_text()
  assert '| Aesthetically, which video is better? | **100.0 % [100.0, 100.0]** | 4 | 100% |' in text
  assert (
    'motion: pairs without a vote: 1.' in text and '| Motion-I2V | 75.0 | 89.0 | 93.7 |' in text
  )
  assert 'secret_a' in capsys.readouterr().out


def test_votes_need_their_study(study, tmp_path):
  with pytest.raises(InputError, match=r'give the folder of the study .* \(--study STUDY\)'):
    count_votes(['votes.json'], None, None, 10)
  (tmp_path / 'votes.json').write_text('{"study": "x"}')
  with pytest.raises(InputError, match='holds votes of study'):
    count_votes([str(tmp_path / 'votes.json')], str(study), None, 10)
  with pytest.raises(InputError, match='which --votes reads: name another --out'):
    count_votes([str(tmp_path / 'votes.json')], str(study), str(tmp_path), 10)
