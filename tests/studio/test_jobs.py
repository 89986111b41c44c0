"""The queue: order, progress, cancelling, limits, and jobs that fail."""

import threading

import pytest

from ttm_jax.errors import InputError
from ttm_jax.studio import jobs
from ttm_jax.studio.jobs import CANCELLED, DONE, FAILED, RUNNING, WAITING, Queue


@pytest.fixture
def queue():
  made = Queue(time_limit=60)
  yield made
  made.close()


class Gated:
  """Work of some steps, each of which waits for a gate."""

  def __init__(self, steps=3):
    self.gate, self.started, self.steps = threading.Event(), threading.Event(), steps

  def __call__(self, progress):
    for done in range(self.steps + 1):
      progress(done, self.steps)
      self.started.set()
      assert self.gate.wait(20)
    return 'result'


def ended(job):
  for _ in range(2000):
    if job.is_over:
      return job
    threading.Event().wait(0.01)
  raise AssertionError(job)


def test_one_after_the_other(queue):
  first, second = Gated(), Gated()
  a, b = queue.add('me', 'a', first), queue.add('you', 'b', second)
  assert first.started.wait(20)
  assert (a.status, b.status) == (RUNNING, WAITING) and queue.position(b) == 1
  first.gate.set()
  second.gate.set()
  assert ended(b).status == DONE and a.status == DONE and a.result == 'result'
  assert (a.done, a.total) == (3, 3) and queue.position(a) == 0


def test_cancel_what_runs_and_what_waits(queue):
  work = Gated()
  a, b, c = queue.add('me', 'a', work), queue.add('me', 'b', work), queue.add('you', 'c', Gated(0))
  assert work.started.wait(20)
  queue.cancel(b)
  assert b.status == CANCELLED
  queue.cancel_all('me')
  work.gate.set()
  assert ended(a).status == CANCELLED and a.result is None
  c.work.gate.set()
  assert ended(c).status == DONE, 'the queue goes on'


def test_the_limit_of_time():
  queue = Queue(time_limit=1e-9)
  job = ended(queue.add('me', 'Video', lambda progress: progress(1, 2)))
  assert (
    job.status == FAILED and 'Video was stopped: it took longer than the 1e-09 s' in job.message
  )
  queue.close()


@pytest.mark.parametrize(
  'error, message',
  [
    (InputError('the mask is empty'), 'the mask is empty'),
    (RuntimeError('CUDA\nmore'), 'Video failed (RuntimeError: CUDA). Your project is unchanged.'),
    (MemoryError(), 'Video ran out of memory: try fewer steps, or a smaller model'),
    (KeyError(), 'Video failed (KeyError). Your project is unchanged.'),
  ],
)
def test_work_that_fails(queue, error, message):
  def work(progress):
    raise error

  job = ended(queue.add('me', 'Video', work))
  assert (job.status, job.message) == (FAILED, message)
  assert ended(queue.add('me', 'b', lambda progress: 5)).result == 5, 'the queue goes on'


def test_limits_of_the_queue(queue, monkeypatch):
  work = Gated()
  for number in range(jobs.MOST_OF_ONE):
    queue.add('me', str(number), work)
  with pytest.raises(InputError, match='4 jobs of yours are in the queue'):
    queue.add('me', 'more', work)
  monkeypatch.setattr(jobs, 'MOST_WAITING', 3)
  with pytest.raises(InputError, match='jobs are waiting: try again later'):
    queue.add('you', 'more', work)
  work.gate.set()


def test_closing_ends_what_runs():
  queue, work = Queue(60), Gated(1000)
  job = queue.add('me', 'a', work)
  assert work.started.wait(20)
  work.gate.set()
  queue.close()
  assert job.is_over
