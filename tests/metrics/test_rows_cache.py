"""The cache of rows: nothing is measured twice, and corrupt or foreign files are not used."""

import dataclasses

import numpy as np
import pytest

from tests.helpers.metric_samples import sample
from ttm_jax.errors import InputError
from ttm_jax.metrics.base import mean_of_rows
from ttm_jax.metrics.rows_cache import digest, measure_cached


class Counting:
  """A metric that records what it measures."""

  name, title, higher_is_better, least = 'mean', 'mean', True, 1
  summarize = staticmethod(mean_of_rows)

  def __init__(self, protocol='Means.', fail_at=None):
    self.protocol, self.fail_at, self.seen = protocol, fail_at, []

  def measure(self, samples):
    if any(one.clip.key == self.fail_at for one in samples):
      raise InputError('it cannot be measured')
    self.seen += [one.clip.key for one in samples]
    rows = [[one.video.mean(), np.nan, one.video.max()] for one in samples]
    return np.array(rows, float).reshape(-1, 3)


def test_second_call_measures_nothing(tmp_path):
  samples = [sample(seed) for seed in (0, 1, 0, 2)]
  metric, told = Counting(), []
  rows = measure_cached(metric, samples, tmp_path / 'new', batch=2, progress=told.append)
  np.testing.assert_array_equal(rows, Counting().measure(samples))
  assert metric.seen == ['clip0', 'clip1', 'clip2'] and sum(told) == 4
  again, told = Counting(), []
  kept = measure_cached(again, samples[::-1], tmp_path / 'new', progress=told.append)
  np.testing.assert_array_equal(kept, rows[::-1])
  assert not again.seen and sum(told) == 4 and kept.dtype == np.float64
  other = Counting(protocol='Other means.')
  measure_cached(other, samples[:1], tmp_path / 'new')
  assert other.seen == ['clip0']
  assert measure_cached(Counting(), [], tmp_path).shape == (0, 3)


def test_interrupted_scoring_resumes(tmp_path):
  samples = [sample(seed) for seed in range(5)]
  with pytest.raises(InputError, match='cannot be measured'):
    measure_cached(Counting(fail_at='clip3'), samples, tmp_path, batch=1)
  metric = Counting()
  measure_cached(metric, samples, tmp_path, batch=1)
  assert metric.seen == ['clip3', 'clip4']


def test_content_decides_not_the_key():
  one = sample()
  names = {digest(one)}
  assert digest(dataclasses.replace(one, clip=dataclasses.replace(one.clip, key='b'))) in names
  changes = [
    dataclasses.replace(one, video=one.video ^ 1),
    dataclasses.replace(one, trajectory=one.clip.ids),
    dataclasses.replace(one, trajectory=np.zeros_like(one.clip.ids)),
  ]
  for field, value in {
    'video': one.clip.video ^ 1,
    'ids': one.clip.ids * (one.clip.ids < 2),
    'fps': 9.0,
    'caption': 'x',
    'motion': 'x',
    'names': ('x', 'y'),
    'prompts': ('x', 'y'),
  }.items():
    changes.append(dataclasses.replace(one, clip=dataclasses.replace(one.clip, **{field: value})))
  names |= {digest(changed) for changed in changes}
  assert len(names) == 1 + len(changes)


def test_corrupt_files_are_measured_again(tmp_path):
  samples = [sample(seed) for seed in range(2)]
  wanted = measure_cached(Counting(), samples, tmp_path)
  (first, second) = sorted(tmp_path.rglob('*.npz'))
  content = first.read_bytes()
  rng = np.random.default_rng(0)
  damaged = [b'', content[:40], content[:-30], b'x' * len(content)]
  for _ in range(60):
    flipped = bytearray(content)
    flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
    damaged.append(bytes(flipped))
  for bad in damaged:
    first.write_bytes(bad)
    np.testing.assert_array_equal(measure_cached(Counting(), samples, tmp_path), wanted)
  np.savez(first, row=np.array([object()]))  # A pickle is not read.
  np.testing.assert_array_equal(measure_cached(Counting(), samples, tmp_path), wanted)
  for path, row in ((first, np.zeros(2)), (second, np.zeros(3))):  # Of two widths.
    np.savez(path, row=row)
  np.testing.assert_array_equal(measure_cached(Counting(), samples, tmp_path), wanted)


def test_a_cache_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(InputError, match='free space, or name another folder'):
    measure_cached(Counting(), [sample()], tmp_path / 'file')
