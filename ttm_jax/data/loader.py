"""Load batches in an order that depends only on (seed, step).

Row b of the batch of step s is element `s * batch_size + b` of the dataset repeated forever, with
a new shuffle in each epoch. Each process reads its own rows. The step is the only loader state: a
resumed run sees the same batches as an uninterrupted one, and the number of processes may change.

A mixture reads each batch from one of several datasets. Which one depends only on the step and the
weights, and batch number n of a dataset is what it would be without the others.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np

from ttm_jax.parallel.mesh import batch_sharding

Arrays = dict[str, np.ndarray]


class Source(Protocol):
  """A dataset with random access to its records."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Any: ...


def batches(
  source: Source,
  batch_size: int,
  seed: int,
  start: int = 0,
  transform: Callable[[Any], Arrays] | None = None,
  threads: int = 4,
  rows: Sequence[int] | None = None,
  collate: Callable[[Sequence[Any]], Arrays] | None = None,
) -> Iterator[Arrays]:
  """Yield the rows of this process of an endless sequence of batches.

  Args:
    source: the dataset.
    batch_size: the global batch size.
    seed: seed of the shuffles.
    start: the first step.
    transform: applied to each record.
    threads: number of threads that read ahead, and of batches read ahead.
    rows: the rows of each batch that this process reads. By default those that its devices hold
      under the current mesh (`jax.set_mesh`), or an equal share if no mesh is set.
    collate: combines records into a batch; by default stacks their arrays.

  Yields:
    Stacked arrays [rows, ...].

  Raises:
    ValueError: see `share`.
  """
  rows = share(batch_size) if rows is None else rows

  def read(numbers: Sequence[int]) -> Arrays:
    records = [source[number] for number in numbers]
    if transform is not None:
      records = [transform(record) for record in records]
    return (collate or stack)(records)

  return _iterate(_Rows(_order(source, seed), batch_size, rows).map(read), start, threads)


def mixed_batches(
  sources: Sequence[Source],
  collates: Sequence[Callable[[Sequence[Any]], Arrays]],
  weights: Sequence[float],
  batch_size: int,
  seed: int,
  start: int = 0,
  threads: int = 4,
) -> Iterator[Arrays]:
  """Yield the rows of this process of an endless sequence of batches, each from one dataset.

  After any number of steps, each dataset has had its share of them up to about one batch.

  Args:
    sources: the datasets.
    collates: for each dataset, combines records into a batch.
    weights: for each dataset, its share of the batches; kept to 1 %.
    batch_size: see `batches`.
    seed: see `batches`.
    start: see `batches`.
    threads: see `batches`.

  Yields:
    Stacked arrays [rows, ...].

  Raises:
    ValueError: see `share`.
  """
  rows = share(batch_size)

  def reading(source: Source, collate: Callable[[Sequence[Any]], Arrays]) -> grain.MapDataset:
    order = _Rows(_order(source, seed), batch_size, rows)
    return order.map(lambda numbers: collate([source[number] for number in numbers]))

  parts = [reading(*pair) for pair in zip(sources, collates, strict=True)]
  whole = grain.MapDataset.mix(parts, weights) if len(parts) > 1 else parts[0]
  return _iterate(whole, start, threads)


def _order(source: Source, seed: int) -> grain.MapDataset:
  """Return the endless sequence of record indices of a dataset."""
  return grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()


def _iterate(batches: grain.MapDataset, start: int, threads: int) -> Iterator[Arrays]:
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  return iter(batches[start:].to_iter_dataset(options))


class _Rows(grain.MapDataset):
  """Element `step` holds the record indices of the given rows of the batch of that step.

  Grain passes record indices, one batch at a time: passing each record separately took longer than
  reading it.
  """

  def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
    super().__init__(parent)
    self._batch_size, self._rows = batch_size, rows

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    return [self._parent[index * self._batch_size + row] for row in self._rows]


def stack(records: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
  """Stack the arrays of records, which must have the same shapes."""
  return {name: np.stack([record[name] for record in records]) for name in records[0]}


def share(batch_size: int) -> Sequence[int]:
  """Return the rows of a batch that this process reads (see `batches`).

  Raises:
    ValueError: no mesh is set, and `batch_size` is not a multiple of the number of processes.
  """
  mesh = jax.sharding.get_mesh()
  if not mesh.empty:
    # If a mesh axis that does not shard the batch spans processes, these hold the same rows.
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for index in held if index for row in range(batch_size)[index[0]]})
  processes, index = jax.process_count(), jax.process_index()
  if batch_size % processes:
    raise ValueError(f'batch size {batch_size} must be a multiple of the {processes} processes')
  count = batch_size // processes
  return range(index * count, (index + 1) * count)


def to_device(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict:
  """Return global arrays of `sharding`, made from the rows of this process."""
  return {
    name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()
  }


class Prefetch:
  """Iterates over batches on the devices, transferred ahead by a background thread.

  While a step runs, the thread reads, stacks and transfers the next batches.
  """

  def __init__(
    self, stream: Iterable[Mapping[str, np.ndarray]], put: Callable[[Mapping], dict], ahead: int = 2
  ):
    """Start the thread.

    Args:
      stream: batches on the host, read to its end.
      put: transfers a batch to the devices.
      ahead: size of the queue of transferred batches; one more may wait to enter the queue.
    """
    self._queue: queue.Queue = queue.Queue(ahead)
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, args=(stream, put), name='prefetch', daemon=True
    )
    self._thread.start()

  def __iter__(self) -> 'Prefetch':
    return self

  def __next__(self) -> dict:
    """Return the next batch.

    Raises:
      StopIteration: the stream has ended.
      Exception: any error from reading or transferring the batch.
    """
    item, error = self._queue.get()
    if error is not None:
      self._queue.put((None, error))  # Later calls raise the same error.
      raise error
    return item

  def close(self) -> None:
    """Stop the thread and discard queued batches. Waits at most 5 s."""
    self._stop.set()
    end = time.monotonic() + 5.0  # An unresponsive disk must not block shutdown.
    while self._thread.is_alive() and time.monotonic() < end:
      with contextlib.suppress(queue.Empty):
        self._queue.get(timeout=0.05)

  def _fill(self, stream, put) -> None:
    try:
      for batch in stream:
        if self._stop.is_set():
          return
        self._queue.put((put(batch), None))
    except Exception as error:
      self._queue.put((None, error))
    else:
      self._queue.put((None, StopIteration()))
