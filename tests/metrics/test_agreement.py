"""What two systems have in common, and scored folders to compare with."""

import json

import numpy as np
import pytest

from tests.helpers import scored
from tests.helpers.scored import FPS, FRAMES, HEIGHT, KEYS, WIDTH, Brightness, Spread
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.media.video_io import write_video
from ttm_jax.metrics.agreement import agree
from ttm_jax.metrics.score_files import ScoredFolder, is_scored, read_scored, write_scores
from ttm_jax.metrics.scoring import Measured, summarize
from ttm_jax.metrics.systems import VideoFolder

SHAPE = (FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  return Clips(scored.save_clips(tmp_path_factory.mktemp('data') / 'clips'), 'validation')


def refusal(call, *args, **options):
  with pytest.raises(InputError) as caught:
    call(*args, **options)
  return str(caught.value)


METRICS = (Brightness(), Spread())


def save_scores(folder, keys=KEYS, metrics=METRICS):
  """Write a scored folder of random rows; return the rows."""
  rng = np.random.default_rng(0)
  widths = {'brightness': 1, 'spread': 2}
  rows = {m.name: rng.normal(size=(2, len(keys), widths[m.name])) for m in metrics}
  system = Measured('inner name', keys, (5, 7), rows)
  found = summarize(metrics, [system, system], draws=20)
  folder.mkdir()
  write_scores(folder, found, [1] * len(keys), SHAPE, ['a note'])
  return rows


def test_a_scored_folder_is_read_exactly(tmp_path):
  assert not is_scored(tmp_path)
  rows = save_scores(tmp_path / 'scored')
  assert is_scored(tmp_path / 'scored')
  found = read_scored(tmp_path / 'scored')
  assert found.measured.name == str(tmp_path / 'scored')
  assert (found.measured.keys, found.measured.seeds, found.shape) == (KEYS, (5, 7), SHAPE)
  for name, array in rows.items():
    np.testing.assert_array_equal(found.measured.rows[name], array)
  values = json.loads((tmp_path / 'scored' / 'scores.json').read_text())
  by_clip = values['systems'][0]['by_clip']
  assert list(by_clip) == ['brightness']  # The number of `spread` is no mean.
  np.testing.assert_array_equal(by_clip['brightness'], rows['brightness'][..., 0].T)
  assert values['systems'][0]['scores']['spread']['few'] is True
  assert values['metrics']['brightness']['protocol'] == Brightness().protocol


def test_scores_that_cannot_be_compared(tmp_path):
  save_scores(tmp_path / 'scored', metrics=[Brightness()])
  found = read_scored(tmp_path / 'scored')
  found.check([Brightness()], SHAPE)
  assert refusal(found.check, [Brightness()], (9, 24, 32)) == (
    f'{tmp_path}/scored was scored at frames, height, width {SHAPE}, not (9, 24, 32): score both at'
    ' one size'
  )
  assert refusal(found.check, [Spread()], SHAPE) == (
    f'{tmp_path}/scored was not scored by spread: score it with --metrics that include spread, or'
    ' leave it out here'
  )
  other = Brightness(protocol='of the first frame')
  assert refusal(found.check, [other], SHAPE) == (
    f'{tmp_path}/scored measured brightness by another protocol ({Brightness().protocol}): score it'
    ' again'
  )


@pytest.mark.parametrize(
  'change',
  [
    {'systems': []},
    {'format': 2},
    {'shape': [1, 2]},
    {'clips': [{'key': 'a'}]},
    {'clips': [{'key': 1}] * 4},
    {'metrics': {'absent': {'protocol': 'x'}}},
    {'metrics': []},
  ],
)
def test_damaged_scores(tmp_path, change):
  save_scores(tmp_path / 'scored')
  path = tmp_path / 'scored' / 'scores.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  said = refusal(read_scored, tmp_path / 'scored')
  assert said.startswith(f'{tmp_path}/scored: its scores are damaged (')
  assert said.endswith('score it again')


def test_damaged_rows(tmp_path):
  save_scores(tmp_path / 'scored')
  (tmp_path / 'scored' / 'rows.safetensors').write_bytes(b'no tensors')
  assert 'its scores are damaged (' in refusal(read_scored, tmp_path / 'scored')


def test_two_folders_are_scored_on_the_clips_of_both(clips, tmp_path):
  a = str(scored.save_videos(tmp_path / 'a', keys=KEYS[:3]))
  b = str(scored.save_videos(tmp_path / 'b', keys=KEYS[1:]))
  write_video(tmp_path / 'b' / 'b.mp4', np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), FPS)
  said = refusal(agree, clips, None, a, b, ['length'])
  assert said.startswith(f'{a}: 1 of 4 clips have no readable video of every seed (d)')
  found = agree(clips, None, a, b, ['missing', 'length'])
  assert isinstance(found.other, VideoFolder) and found.ours is not None
  assert found.references.keys == ('b', 'c c') and found.shape == (3, HEIGHT, WIDTH)
  assert found.references[1].video.shape == (3, HEIGHT, WIDTH, 3)
  assert len(found.notes) == 3
  for source, name in ((found.ours, a), (found.other, b)):
    (batch,) = source.batches()
    assert [s.clip.key for s in batch.samples[name]] == ['b', 'c c']
  about = found.about('data', 'validation')
  assert about.fps == FPS and about.shape == found.shape
  assert agree(clips, 3, a, None, []).references.keys == KEYS[:3]


def test_two_folders_without_a_common_clip(clips, tmp_path):
  a = str(scored.save_videos(tmp_path / 'a', keys=KEYS[:2]))
  b = str(scored.save_videos(tmp_path / 'b', keys=KEYS[2:]))
  assert refusal(agree, clips, None, a, b, ['missing']) == (
    f'{a} and {b} have no clip in common: compare videos of one set'
  )


def test_a_scored_folder_of_other_clips(clips, tmp_path):
  save_scores(tmp_path / 'scored', keys=('d', 'b', 'other'))
  a, b = str(scored.save_videos(tmp_path / 'a')), str(tmp_path / 'scored')
  assert refusal(agree, clips, None, a, b, []) == (
    f'{b} was scored on 2 of the 4 clips: score it on all, or give --allow=missing to compare these'
  )
  found = agree(clips, None, a, b, ['missing'])
  assert isinstance(found.other, ScoredFolder) and found.references.keys == ('b', 'd')
  assert found.notes == (f'{b} was scored on 2 of the 4 clips; the others are left out',)


def test_clips_of_several_sizes(tmp_path):
  large = scored.clip('large', 1, size=(2 * HEIGHT, WIDTH))
  long = scored.clip('long', 1, frames=FRAMES + 1)
  for other, said in (
    (large, 'the clips differ in size: score a dataset of one size at a time'),
    (long, 'the clips have 4 to 5 frames: score a dataset of one length at a time'),
  ):
    path = scored.save_clips(tmp_path / other.key, [scored.clip('b', 0), other])
    assert refusal(agree, Clips(path, 'validation'), None, None, None, []) == said
