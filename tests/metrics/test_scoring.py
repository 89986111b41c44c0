"""Rows of systems, their numbers, and the comparison of two."""

import numpy as np
import pytest

from tests.helpers import scored
from tests.helpers.scored import KEYS, Brightness, Spread
from ttm_jax.data.clips import Clips
from ttm_jax.metrics.references import References, headers_of
from ttm_jax.metrics.scored_videos import inspect
from ttm_jax.metrics.scoring import Measured, measure, summarize
from ttm_jax.metrics.systems import VideoFolder


@pytest.fixture(scope='module')
def references(tmp_path_factory):
  clips = Clips(scored.save_clips(tmp_path_factory.mktemp('data') / 'clips'), 'validation')
  return References(clips, headers_of(clips))


def folder_of(references, path, name='ours', batch=3):
  return VideoFolder(inspect(path, references.headers), references, (name,), batch)


def test_every_clip_and_seed_gets_its_row(references, tmp_path):
  for seed in (1, 2):
    scored.save_videos(tmp_path / 'videos', 10 * seed, seed=seed)
  seen, done = [], []
  (found,) = measure(
    folder_of(references, tmp_path / 'videos'),
    [Brightness(), Spread()],
    tmp_path / 'cache',
    keep=lambda batch: seen.append((batch.seed, batch.first, len(batch.samples['ours']))),
    progress=done.append,
  )
  assert seen == [(0, 0, 3), (0, 3, 1), (1, 0, 3), (1, 3, 1)] and sum(done) == 2 * 2 * 4
  assert (found.name, found.keys, found.seeds) == ('ours', KEYS, (1, 2))
  assert found.rows['brightness'].shape == (2, 4, 1) and found.rows['spread'].shape == (2, 4, 2)
  np.testing.assert_allclose(found.rows['brightness'][:, :, 0], [[10] * 4, [20] * 4], atol=2)
  np.testing.assert_allclose(found.rows['spread'][0, :, 1], [40, 80, 120, 160])
  some = found.of(['d', 'b'])
  np.testing.assert_array_equal(some.rows['spread'], found.rows['spread'][:, [3, 1]])
  assert some.keys == ('d', 'b')


def measured(name, *values):
  """Return what a system of one seed has for four clips."""
  rows = np.array(values, float).reshape(1, -1, 1)
  keys = tuple(map(str, range(rows.shape[1])))
  return Measured(name, keys, (0,), {'brightness': rows})


def test_the_better_of_two_systems():
  metric = Brightness()  # Lower is better.
  low, high = measured('low', 1, 2, 3, 4, 5), measured('high', 2, 3, 4, 5, 6.1)
  for ours, theirs, better in ((low, high, 0), (high, low, 1)):
    found = summarize([metric], [ours], theirs, draws=200)
    assert found.against == 1 and found.better(metric) == better
  assert found.differences['brightness'].value == pytest.approx(1.02)
  # Paired by clip, the difference is certain; the intervals of the systems overlap.
  assert found.numbers[0]['brightness'].low < found.numbers[1]['brightness'].high
  same = summarize([metric], [low], measured('same', 5, 4, 3, 2, 1), draws=200)
  assert same.better(metric) is None and same.differences['brightness'].value == 0
  alone = summarize([metric], [low, high], draws=200)
  assert alone.against is None and not alone.differences and alone.better(metric) is None
  # The difference is that of the first system, not of others that it came with.
  three = summarize([metric], [low, high], measured('other', 0, 1, 2, 3, 4), draws=200)
  assert three.against == 2 and three.differences['brightness'].value == 1
  assert three.better(metric) == 2


def test_few_clips():
  metric = Brightness()  # Needs three.
  enough, few = measured('a', 1, 2, 3), measured('b', 1, np.nan, 3)
  found = summarize([metric], [enough], few, draws=50)
  assert few.valued('brightness') == 2
  assert not found.few(0, metric) and found.few(1, metric)
