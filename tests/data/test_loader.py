"""The order of records is a function of (seed, step), for any reader and any start."""

import itertools

import jax
import numpy as np
import pytest

from ttm_jax.data import loader
from ttm_jax.parallel.mesh import make_mesh

RECORDS = 10


class Numbers:
  """A data source whose record i holds i."""

  def __len__(self):
    return RECORDS

  def __getitem__(self, index):
    assert 0 <= index < RECORDS
    return {'index': np.array(index), 'square': np.array([index, index**2])}


def take(count, batch_size=4, seed=3, **options):
  """Return the numbers in each of the first `count` batches."""
  stream = loader.batches(Numbers(), batch_size, seed, threads=2, **options)
  return [batch['index'].tolist() for batch in itertools.islice(stream, count)]


def test_fields_stay_together():
  batch = next(loader.batches(Numbers(), 4, seed=3))
  np.testing.assert_array_equal(batch['square'], np.stack([batch['index'], batch['index'] ** 2], 1))


def test_order_follows_from_seed_and_step():
  order = take(15)
  assert take(15) == order
  assert take(15, seed=4) != order
  for start in (1, 7, 14):
    assert take(15 - start, start=start) == order[start:]


def test_every_record_once_an_epoch_in_new_order():
  flat = list(itertools.chain(*take(15)))  # Six epochs; batches cross their boundaries.
  epochs = [tuple(flat[i : i + RECORDS]) for i in range(0, 60, RECORDS)]
  assert all(sorted(epoch) == list(range(RECORDS)) for epoch in epochs)
  assert len(set(epochs)) == 6
  assert epochs[0] != tuple(range(RECORDS))


def test_batch_size_does_not_change_the_order():
  assert list(itertools.chain(*take(10, batch_size=3))) == list(
    itertools.chain(*take(5, batch_size=6))
  )


def test_a_batch_larger_than_the_dataset():
  (batch,) = take(1, batch_size=25)
  assert sorted(batch) == sorted([*range(RECORDS)] * 2 + batch[20:])


@pytest.mark.parametrize('start', [0, 5])
def test_processes_share_each_batch(start):
  whole = take(8, start=start)
  for processes in (2, 4):
    size = 4 // processes
    parts = [take(8, start=start, rows=range(p * size, (p + 1) * size)) for p in range(processes)]
    assert [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)] == whole


def test_share_of_this_process(monkeypatch):
  whole = take(3)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  assert take(3) == [batch[2:] for batch in whole]
  with pytest.raises(ValueError, match='batch size 5 must be a multiple of the 2 processes'):
    take(1, batch_size=5)


class Held:
  """Replace the sharding of a batch: the rows that the devices of one process hold."""

  def __init__(self, *parts):
    self._parts = {device: (part,) for device, part in enumerate(parts)}

  def addressable_devices_indices_map(self, shape):
    return self._parts


def test_rows_are_those_that_the_devices_hold(monkeypatch):
  whole = take(3)
  with jax.set_mesh(make_mesh({'fsdp': -1})):
    assert take(3) == whole
    # All four rows on two devices that split the network, and rows that are not adjacent.
    for held, rows in (
      (Held(slice(None), slice(None)), [0, 1, 2, 3]),
      (Held(slice(3, 4), slice(0, 1), slice(0, 1)), [0, 3]),
    ):
      monkeypatch.setattr(loader, 'batch_sharding', lambda mesh, held=held: held)
      assert take(3) == [[batch[row] for row in rows] for batch in whole]


def test_transform():
  def negative(record):
    return {'index': -record['index']}

  assert take(5, transform=negative) == [[-i for i in batch] for batch in take(5)]


def test_rows_reach_the_device():
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  batch = next(loader.batches(Numbers(), 4, seed=3))
  placed = loader.to_device(batch, sharding)
  assert placed['square'].sharding == sharding
  np.testing.assert_array_equal(placed['square'], batch['square'])


class Lettered(Numbers):
  """A data source whose record i of dataset `name` holds (name, i)."""

  def __init__(self, name, length):
    self.name, self.length = name, length

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    return self.name, index


WEIGHTS = {'a': 0.6, 'b': 0.3, 'c': 0.1}


def take_mixed(count, start=0):
  """Return the first `count` batches of a mixture, as (dataset, record indices)."""
  sources = [Lettered(name, length) for name, length in zip(WEIGHTS, (10, 7, 30), strict=True)]

  def collate(records):
    names, numbers = zip(*records, strict=True)
    assert len(set(names)) == 1
    return {'from': names[0], 'numbers': list(numbers)}

  stream = loader.mixed_batches(
    sources, [collate] * 3, list(WEIGHTS.values()), 4, seed=3, start=start, threads=2
  )
  return [(batch['from'], batch['numbers']) for batch in itertools.islice(stream, count)]


def test_weights_of_a_mixture():
  read = [name for name, _ in take_mixed(1000)]
  for name, weight in WEIGHTS.items():
    counts = np.cumsum([one == name for one in read])
    assert counts[-1] == pytest.approx(1000 * weight, rel=0.02)
    # They are kept all the time, not only in the end.
    assert np.abs(counts - weight * np.arange(1, 1001)).max() < 2


def test_each_dataset_of_a_mixture_keeps_its_own_order():
  mixed = take_mixed(60)
  for name, length in zip(WEIGHTS, (10, 7, 30), strict=True):
    own = [numbers for one, numbers in mixed if one == name]
    source = Lettered(name, length)
    alone = loader.batches(source, 4, 3, collate=lambda records: {'n': [i for _, i in records]})
    assert own == [batch['n'] for batch in itertools.islice(alone, len(own))]


@pytest.mark.parametrize('start', [1, 7, 31])
def test_a_mixture_resumes_at_any_step(start):
  assert take_mixed(60 - start, start) == take_mixed(60)[start:]


def test_processes_share_each_batch_of_a_mixture(monkeypatch):
  whole = take_mixed(20)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for process, rows in ((0, slice(0, 2)), (1, slice(2, 4))):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    assert take_mixed(20) == [(name, numbers[rows]) for name, numbers in whole]
