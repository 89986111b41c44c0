"""Step times and waits for data on a simulated device; prefetching of batches."""

import time

import numpy as np
import pytest

from ttm_jax.data.loader import Prefetch
from ttm_jax.training import step_timer as clocks
from ttm_jax.training.step_timer import AHEAD, StepTimer


class Device:
  """Computes steps one after the other; replaces jax.block_until_ready of their results."""

  def __init__(self, monkeypatch):
    self.free = time.perf_counter()
    monkeypatch.setattr(clocks.jax, 'block_until_ready', self.wait)

  def hand_over(self, seconds):
    """Start a step; return the time at which it will be done."""
    self.free = max(self.free, time.perf_counter()) + seconds
    return self.free

  def wait(self, result):
    if isinstance(result, Exception):
      raise result
    time.sleep(max(0.0, result - time.perf_counter()))


@pytest.fixture
def device(monkeypatch):
  return Device(monkeypatch)


def steps(clock, device, count, compute, read=0.0, other=0.0):
  """Run steps whose batch takes `read` seconds to arrive, while the host does other work."""
  for _ in range(count):
    clock.begin()
    time.sleep(read)
    clock.got_data()
    clock.handed_over(device.hand_over(compute))
    time.sleep(other)
  clock.settle()


# Sleep is a lower bound on a busy machine; sums must fit in the elapsed time.


def test_a_device_that_always_has_work(device):
  clock = StepTimer()
  begin = time.perf_counter()
  steps(clock, device, 6, 0.1, read=0.01)
  passed = time.perf_counter() - begin
  durations, starved = clock.read()
  assert len(durations) == 5  # The first step is not counted.
  assert min(durations) > 0.09 and sum(durations) < passed
  assert starved < 0.3 * passed
  assert clock.read() == ([], 0.0)
  clock.close()


def test_a_device_that_waits_for_data(device):
  clock = StepTimer()
  begin = time.perf_counter()
  steps(clock, device, 5, 0.01, read=0.1)
  passed = time.perf_counter() - begin
  durations, starved = clock.read()
  # Before the first step nothing was computed, so its batch is not a wait of the device.
  assert 4 * 0.08 < starved < passed
  assert starved > 0.5 * (passed - 0.1)
  assert max(durations) < passed / 2
  clock.close()


def test_what_the_host_does_besides_is_no_wait_for_data(device):
  clock = StepTimer()
  steps(clock, device, 4, 0.01, other=0.1)
  assert clock.read()[1] < 0.05
  steps(clock, device, 1, 0.01)
  clock.read()
  clock.pause()
  time.sleep(0.2)
  steps(clock, device, 2, 0.01, read=0.01)
  durations, starved = clock.read()
  assert len(durations) == 2 and max(durations) < 0.15 and starved < 0.15
  clock.close()


def test_the_host_is_never_far_ahead(device):
  clock = StepTimer()
  begun = []
  for _ in range(6):
    clock.begin()
    begun.append(time.perf_counter())
    clock.got_data()
    clock.handed_over(device.hand_over(0.05))
  # Step i starts when step i - AHEAD is done.
  assert all(b - a > 0.04 for a, b in zip(begun[AHEAD - 1 :], begun[AHEAD:], strict=False))
  clock.settle()
  assert time.perf_counter() >= device.free
  clock.close()


def test_what_a_step_raises_comes_out(device):
  clock = StepTimer()
  clock.begin()
  clock.handed_over(RuntimeError('the network is gone'))
  with pytest.raises(RuntimeError, match='the network is gone'):
    clock.settle()
  with pytest.raises(RuntimeError, match='the network is gone'):
    clock.begin()
  clock.close()


def batches(count, seconds=0.0):
  for i in range(count):
    time.sleep(seconds)
    yield {'x': np.full(3, i)}


def test_batches_come_in_order_and_end():
  ahead = Prefetch(batches(5), lambda batch: {'y': batch['x'] + 1})
  assert [int(batch['y'][0]) for batch in ahead] == [1, 2, 3, 4, 5]
  with pytest.raises(StopIteration):
    next(ahead)
  ahead.close()


def test_batches_are_put_ahead_while_a_step_runs():
  put = []
  ahead = Prefetch(batches(10), lambda batch: put.append(batch) or batch, ahead=2)
  next(ahead)
  end = time.monotonic() + 30
  while len(put) < 4 and time.monotonic() < end:
    time.sleep(0.01)
  time.sleep(0.1)
  assert len(put) == 4  # One is in use, two wait, and one more is being read.
  ahead.close()


def test_reading_hides_behind_the_step():
  ahead = Prefetch(batches(6, 0.05), dict)
  next(ahead)
  waited = 0.0
  for _ in range(5):
    time.sleep(0.1)  # The step.
    begin = time.perf_counter()
    next(ahead)
    waited += time.perf_counter() - begin
  assert waited < 0.5 * 5 * 0.05
  ahead.close()


def test_an_error_of_reading_comes_out_where_its_batch_would():
  def broken():
    yield from batches(2)
    raise OSError('the disk is gone')

  ahead = Prefetch(broken(), dict)
  next(ahead), next(ahead)
  for _ in range(2):
    with pytest.raises(OSError, match='the disk is gone'):
      next(ahead)
  ahead.close()


def test_closing_ends_the_thread():
  ahead = Prefetch(batches(10_000), dict)
  next(ahead)
  ahead.close()
  assert not ahead._thread.is_alive()
