"""Batches in an order that is a function of (seed, step) alone.

Record b of the batch of step s is number `s * batch_size + b` of an endlessly repeated, each time
newly shuffled dataset. Each process reads its own rows. So the position of the loader is the step:
nothing else need be saved, a resumed run sees just what it would have seen, and the number of
processes may change.
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
  """Endless batches from step `start` on, as this process sees them.

  Args:
    source: the dataset.
    batch_size: of all processes together.
    transform: applied to each record.
    threads: that read ahead, each one batch.
    rows: of each batch, that this process reads; by default those that its devices hold under the
      mesh in force (`jax.set_mesh`), or its equal share where there is none.
    collate: makes a batch of records; by default their arrays are stacked.

  Yields:
    Stacked arrays [rows, ...].
  """
  rows = share(batch_size) if rows is None else rows

  def read(numbers: Sequence[int]) -> Arrays:
    records = [source[number] for number in numbers]
    if transform is not None:
      records = [transform(record) for record in records]
    return (collate or stack)(records)

  # Grain carries numbers of records, a batch at a time: to hand over each record took it longer
  # than to read it.
  order = grain.MapDataset.range(len(source)).shuffle(seed=seed).repeat()
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  return iter(_Rows(order, batch_size, rows)[start:].map(read).to_iter_dataset(options))


class _Rows(grain.MapDataset):
  """Element `step`: the numbers of the records that stand in some rows of the batch of a step."""

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
  """A batch of records whose arrays are of the same shapes."""
  return {name: np.stack([record[name] for record in records]) for name in records[0]}


def share(batch_size: int) -> Sequence[int]:
  """The rows of a batch that this process reads, see `batches`."""
  mesh = jax.sharding.get_mesh()
  if not mesh.empty:
    # Processes hold the same rows where an axis that does not split the batch runs across them.
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for index in held if index for row in range(batch_size)[index[0]]})
  processes, index = jax.process_count(), jax.process_index()
  if batch_size % processes:
    raise ValueError(f'batch size {batch_size} must be a multiple of the {processes} processes')
  count = batch_size // processes
  return range(index * count, (index + 1) * count)


def to_device(batch: Mapping[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict:
  """Puts this process's rows into global arrays, sharded along the batch."""
  return {
    name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()
  }


class Prefetch:
  """Batches on the devices, put there ahead by a thread of its own.

  While a step runs, the batches of the next ones are read, stacked and transferred.
  """

  def __init__(
    self, stream: Iterable[Mapping[str, np.ndarray]], put: Callable[[Mapping], dict], ahead: int = 2
  ):
    """Args:
    stream: batches on the host; read to its end, but never further ahead than this.
    put: transfers one.
    ahead: batches that lie on the devices beside those that steps use.
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
    """The next batch.

    Raises:
      StopIteration: at the end.
      Exception: what reading or transferring it raised.
    """
    item, error = self._queue.get()
    if error is not None:
      self._queue.put((None, error))  # It stays the end.
      raise error
    return item

  def close(self) -> None:
    """Ends the thread; the batches that are there are lost."""
    self._stop.set()
    end = time.monotonic() + 5.0  # A disk that does not answer shall not hold up the end.
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
