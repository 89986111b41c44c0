"""A scored folder: its files, its gallery, and what the page loads."""

import json
import re

import numpy as np
import pytest

from tests.helpers import scored
from tests.helpers.pages import Page
from tests.helpers.scored import FPS, FRAMES, HEIGHT, KEYS, WIDTH, Brightness, Spread
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.agreement import agree
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.systems import Batch
from ttm_jax.report import scored_folder
from ttm_jax.report.scored_folder import Options, write_scored

METRICS = (Brightness(), Spread())
EVIL = '</style><script>alert(1)</script>&"'


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
  clips = scored.clips()
  evil = scored.clip(KEYS[3], 3)
  clips[3] = type(evil)(**{**vars(evil), 'caption': EVIL})
  return Clips(scored.save_clips(tmp_path_factory.mktemp('data') / 'clips', clips), 'validation')


@pytest.fixture(scope='module')
def compared(dataset, tmp_path_factory):
  """A scored folder of two seeds, compared with videos."""
  root = tmp_path_factory.mktemp('compared')
  for seed in (4, 9):
    scored.save_videos(root / 'a', seed, seed=seed)
  scored.save_videos(root / 'b', 30)
  agreed = agree(dataset, None, str(root / 'a'), str(root / 'b'), [])
  options = Options(draws=50, shown=3)
  about = agreed.about('data', 'validation')
  write_scored(root / 'out', agreed.ours, METRICS, about, agreed.other, options)
  return root


def test_the_files_of_a_scored_folder(compared):
  out = compared / 'out'
  assert {p.name for p in out.iterdir()} == {
    *scored_folder.FILES,
    *scored_folder.FOLDERS,
    scored_folder.CACHE,
  }
  stems = ['a_0001', 'b', 'c_c', 'd']
  names = {f'{stem}__{seed}.mp4' for stem in stems for seed in (4, 9)}
  assert {p.name for p in (out / 'videos').iterdir()} == names
  kinds = ('reference', 'trajectory', 'other')
  names = {f'{stem}.{kind}.mp4' for stem in stems[:3] for kind in kinds}
  assert {p.name for p in (out / 'gallery').iterdir()} == names
  video, fps = read_video(out / 'videos' / 'b__9.mp4')
  assert video.shape == (FRAMES, HEIGHT, WIDTH, 3) and fps == FPS
  np.testing.assert_allclose(video, 89, atol=3)
  colors, _ = read_video(out / 'gallery' / 'b.trajectory.mp4')
  assert colors.max() > 200 and np.median(colors) < 20  # Objects on black.
  values = json.loads((out / 'scores.json').read_text())
  assert [clip['objects'] for clip in values['clips']] == [1, 2, 1, 2]
  assert values['against'] == str(compared / 'b')
  assert (out / 'scores.md').read_text().startswith(f'# Scores of {compared}/a\n')


def test_the_gallery(compared):
  page = Page(compared / 'out' / 'gallery.html')
  page.check_policy()
  assert len(page.sources) == 3 * 4
  assert all((compared / 'out' / source).is_file() for source in page.sources)
  assert page.sources[:2] == ['gallery/a_0001.reference.mp4', 'gallery/a_0001.trajectory.mp4']
  assert page.sources[2:4] == ['videos/a_0001__4.mp4', 'gallery/a_0001.other.mp4']
  articles = [given for tag, given in page.attributes if tag == 'article']
  assert [given['data-objects'] for given in articles] == ['1', '2', '1']
  player = next(given for _, given in page.attributes if given.get('class') == 'player')
  assert (player['data-fps'], player['data-frames']) == ('8', '4')
  for text in (
    'Caption of a/0001.',
    'a thing that moves; a other that moves',
    '3 of 4 clips; seed 4',
  ):
    assert text in page.text
  # Each clip has its own values, of metrics that are means.
  rows = re.findall(r'brightness \(levels\)([\d.]+)(\d\d\.\d\d)', page.text)
  assert len(rows) == 3
  np.testing.assert_allclose(np.array(rows, float), [[4, 30]] * 3, atol=1.5)
  assert 'ground-truth trajectory' in page.text


def test_the_gallery_is_escaped(dataset, tmp_path):
  folder = scored.save_videos(tmp_path / '<b>&"')
  agreed = agree(dataset, None, str(folder), None, [])
  about = agreed.about('data', 'validation')
  write_scored(tmp_path / 'out', agreed.ours, [Brightness()], about, None, Options(draws=10))
  page = Page(tmp_path / 'out' / 'gallery.html')
  page.check_policy()
  assert EVIL in page.text and f'Scores of {folder}' in page.text
  assert len(page.sources) == 4 * 3


def test_a_scored_folder_is_compared_by_its_rows(dataset, compared, tmp_path):
  folder = scored.save_videos(tmp_path / 'c', 20)
  agreed = agree(dataset, None, str(folder), str(compared / 'out'), [])
  agreed.other.check(METRICS, agreed.shape)
  about = agreed.about('data', 'validation')
  options = Options(draws=50)
  write_scored(tmp_path / 'out', agreed.ours, METRICS, about, agreed.other, options)
  values = json.loads((tmp_path / 'out' / 'scores.json').read_text())
  before = json.loads((compared / 'out' / 'scores.json').read_text())
  assert values['systems'][1]['scores'] == before['systems'][0]['scores']
  assert values['systems'][1]['seeds'] == [4, 9]
  assert values['differences']['brightness']['value'] == pytest.approx(20 - 6.5, abs=1)
  other, _ = read_video(tmp_path / 'out' / 'gallery' / 'b.other.mp4')
  np.testing.assert_allclose(other, 84, atol=3)  # The first seed.


def test_rows_are_kept_for_the_next_time(dataset, tmp_path):
  folder = scored.save_videos(tmp_path / 'videos', 3)
  agreed = agree(dataset, None, str(folder), None, [])
  about = agreed.about('data', 'validation')

  class Forgetful(Brightness):
    def measure(self, samples):
      raise AssertionError('measured again')

  for metric in (Brightness(), Forgetful()):
    write_scored(tmp_path / 'out', agreed.ours, [metric], about, None, Options(draws=10))


def test_a_full_disk(dataset, tmp_path, monkeypatch):
  folder = scored.save_videos(tmp_path / 'videos')
  agreed = agree(dataset, None, str(folder), None, [])

  def full(*args, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(scored_folder, 'write_scores', full)
  about = agreed.about('data', 'validation')
  with pytest.raises(InputError) as caught:
    write_scored(tmp_path / 'out', agreed.ours, [Brightness()], about, None, Options(draws=10))
  assert str(caught.value) == (
    f'cannot write {tmp_path}/out (No space left on device); free space or name another --out'
  )


def test_a_generated_trajectory_is_shown(dataset, tmp_path):
  clip = scored.clip('b', 1)
  moved = np.roll(clip.ids, 3, 2)

  class Source:
    names, seeds = ('ours', 'another'), (0,)
    references = agree(dataset, 1, None, None, []).references

    def batches(self):
      samples = [Sample(clip, clip.video, moved)]
      yield Batch(0, 0, {'ours': samples, 'another': samples})

  Source.references.headers = (Source.references.headers[0].__class__(0, 'b', (4, 24, 32), FPS),)
  about = agree(dataset, 1, None, None, []).about('data', 'validation')
  write_scored(tmp_path, Source(), [Brightness()], about, None, Options(draws=10))
  page = Page(tmp_path / 'gallery.html')
  assert 'generated trajectory' in page.text and len(page.sources) == 3
  colors, _ = read_video(tmp_path / 'gallery' / 'b.trajectory.mp4')
  assert ((colors.max(-1) > 128) == (moved > 0)).mean() > 0.97
  systems = json.loads((tmp_path / 'scores.json').read_text())['systems']
  assert [system['name'] for system in systems] == ['ours', 'another']
