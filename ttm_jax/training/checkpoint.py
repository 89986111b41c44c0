"""Checkpoints of the whole training state: asynchronous, atomic, restorable to any mesh."""

import contextlib
import errno
import functools
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from ttm_jax.atomic import flush, flush_tree
from ttm_jax.data.storage import absolute, is_local
from ttm_jax.errors import InputError
from ttm_jax.training.place import PlainPath, check_address
from ttm_jax.training.state import TrainState
from ttm_jax.training.unmerged import merged, unmerged

_PARTS = ('params', 'ema', 'optimizer', 'guard')
_DIGESTS = 'digests'
_DESCRIPTION = '_CHECKPOINT_METADATA'
DAMAGED = 'damaged'  # Folder, beside that of the checkpoints, of those that could not be read.
_TIMEOUT = 600  # Seconds in which all processes must have written their part of a checkpoint.
_TOGETHER = 2**26  # Bytes of a checkpoint that are read at once, where it is read bit by bit.
_REFUSALS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EEXIST,
  errno.ENOTDIR,
)


# Shape and dtype of each array of a part, by its path.
_Layout = dict[str, tuple[tuple[int, ...], str]]


class StoredArray:
  """An array of a checkpoint, which is read when NumPy asks for it, and not kept.

  It is read together with its neighbours, some megabytes at a time, since each read costs a look at
  the list of all arrays; they wait to be asked for, once.

  Attributes:
    shape: of the array.
  """

  def __init__(self, shape: tuple[int, ...], take: Callable[[], np.ndarray]):
    self.shape = shape
    self._take = take

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = self._take()
    return array if dtype is None else array.astype(dtype, copy=False)


class _Neighbours:
  """Arrays that are read together, and handed out one by one."""

  def __init__(self, read: Callable[[], list[np.ndarray]]):
    self._read = read
    self._waiting: dict[int, np.ndarray] = {}

  def take(self, number: int) -> np.ndarray:
    if number not in self._waiting:
      self._waiting = dict(enumerate(self._read()))
    return self._waiting.pop(number)


class _Durable(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """A folder of Orbax that is flushed to disk when it gets its final name.

  Orbax removes older checkpoints afterwards: there is always a whole one on disk.
  """

  async def finalize(self) -> None:
    await super().finalize()
    final = self.get_final()
    flush_tree(final)
    flush(final.parent)


class Checkpoints:
  """The checkpoints in one folder, each under its step.

  The parts of the state are separate items, so that a reader of the averaged parameters need not
  load the optimiser. A checkpoint appears under its name only when it is whole and its arrays were
  found again with the shapes that were saved. It carries sums over the bits of each part, by which
  a reader knows that it got what was saved. The folder is made by the first save; it may lie on
  gs://.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    keep_last: int = 3,
    keep_every: int = 0,
    read_only: bool = False,
  ):
    """Args:
    keep_last: so many of the newest are kept, 0 for all.
    keep_every: besides, those of the steps that it divides; 0 for none.
    read_only: for readers of a run that may be training; they leave what is half-written alone.

    Raises:
      InputError: nothing can be saved at this address.
    """
    self.directory = absolute(directory)
    self._place = PlainPath(self.directory)
    self._read_only = read_only
    if not read_only:
      check_address(self.directory)
    self._views: dict[int, epath.Path] = {}  # Of checkpoints that were not merged, by step.
    self._expected: tuple[int, dict[str, _Layout]] = 0, {}  # The save that is under way.
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep_last or None,
      keep_period=keep_every or None,
      create=not read_only,
      cleanup_tmp_directories=not read_only,  # What a killed process left.
      async_options=ocp.AsyncOptions(
        timeout_secs=_TIMEOUT, post_finalization_callback=self._confirm
      ),
      temporary_path_class=_Durable if is_local(self.directory) else None,
    )

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    """Saves. Reading goes without, since it refuses a folder with one damaged checkpoint in it."""
    if not self._read_only:
      self.directory.mkdir(parents=True, exist_ok=True)
    handlers = {part: ocp.StandardCheckpointHandler() for part in _PARTS}
    return ocp.CheckpointManager(self._place.path, options=self._options, item_handlers=handlers)

  @functools.cached_property
  def _reader(self) -> ocp.StandardCheckpointHandler:
    """Reads for this process alone: one that fails does not leave the others waiting."""
    return ocp.StandardCheckpointHandler()

  def steps(self) -> list[int]:
    """The steps of all whole checkpoints, in order."""
    if not self.directory.exists():
      return []
    names = ocp.path.step.standard_name_format()
    return sorted(found.step for found in names.find_all(self._place.path))

  def latest(self) -> int | None:
    """The step of the newest whole checkpoint; None if there is none."""
    return max(self.steps(), default=None)

  def save(self, state: TrainState) -> None:
    """Begins to save; returns when the state may be overwritten.

    Raises:
      InputError: if a save, this or the one before, could not be written, or not be read again.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    if jax.process_index() == 0:
      self._check_space(state)
    self.wait()
    parts = {part: getattr(state, part) for part in _PARTS}
    self._expected = step, {part: _layout(tree) for part, tree in parts.items()}
    sums = {part: int(_digest(tree)) for part, tree in parts.items()}
    args = {part: ocp.args.StandardSave(tree) for part, tree in parts.items()}
    self._guard(
      lambda: self._manager.save(
        step, args=ocp.args.Composite(**args), custom_metadata={_DIGESTS: sums}
      )
    )

  def _confirm(self) -> None:
    """Read the list of arrays of a checkpoint that was written, before it gets its name.

    Called by Orbax in the thread that saves, in one process.

    Raises:
      InputError: arrays are missing, or of other shapes than those that were saved.
    """
    step, expected = self._expected
    path = self._place.path
    written = [f for f in path.iterdir() if f.name.startswith(f'{step}.')]
    (folder,) = written or [path / str(step)]  # In buckets it has its name from the beginning.
    for part, layout in expected.items():
      try:
        found = _layout(self._tree(folder / part))
      except Exception as error:  # Whatever the libraries that read may say.
        raise self._not_kept(step, f'{part} cannot be read: {self._said(error)}') from error
      if found != layout:
        names = sorted(n for n in {*found, *layout} if found.get(n) != layout.get(n))
        raise self._not_kept(step, f'array {names[0]} of {part} is not as it was saved')

  def _not_kept(self, step: int, reason: str) -> InputError:
    return InputError(
      f'the checkpoint of step {step} in {self.directory} was written but cannot be read again'
      f' ({reason}), so it is not kept: see whether the disk is sound, or choose another --workdir'
    )

  @property
  def saving(self) -> bool:
    """Whether a save is still being written."""
    return self._manager.is_saving_in_progress()

  def wait(self) -> None:
    """Waits until what was begun is saved.

    Raises:
      InputError: if it could not be written.
    """
    self._guard(self._manager.wait_until_finished)

  def restore_newest(
    self,
    like: TrainState,
    check: Callable[[dict[str, Any]], None],
    agree: Callable[[str, Any], list[Any]] = lambda name, value: [value],
    say: Callable[[str], None] = lambda text: None,
  ) -> TrainState | None:
    """The newest state that can be read; None if there is no checkpoint.

    Those that cannot be read by one of the processes are set aside, and said to be.

    Args:
      like: a state of jax.ShapeDtypeStruct with shardings; they may differ from those at saving.
      check: is given the shapes of the parameters; raises where it is the checkpoint of something
        else.
      agree: tells what each process of the job brought to a meeting, see `Peers`.
      say: takes a sentence for the user.

    Raises:
      InputError: what `check` raises, or if there are checkpoints and none can be read.
    """
    steps = sorted(agree('checkpoints', self.steps())[0], reverse=True)
    damaged: list[int] = []
    problem = ''
    for step in steps:
      state, sums, problem = None, {}, ''
      try:
        shapes = self.shapes(step)
      except InputError as error:
        problem = str(error)
      else:
        check(shapes)
        try:
          state, sums = self.restore(step, like), self._sums(step)
        except InputError as error:
          problem = str(error)
      problem = next(filter(None, agree(f'reading of step {step}', problem)), '')
      if not problem and state is not None:
        wrong = [p for p in _PARTS if int(_digest(getattr(state, p))) != sums.get(p)]
        problem = self._damaged(step, wrong[0]) if wrong else ''
        if not sums:
          problem = f'checkpoint {self.directory}/{step} is damaged: {_DESCRIPTION} has no sums'
      if not problem:
        if step in self._views:
          say(f'checkpoint {self.directory}/{step} was never merged: read from its parts')
        self._set_aside(damaged + self._undescribed(steps, damaged, agree, say), agree)
        return state
      say(f'{problem}: going on from the one before')
      damaged.append(step)
    if steps:
      raise InputError(
        f'no checkpoint in {self.directory} can be read, the oldest: {problem}; take them from a'
        ' copy of the run, or remove them to begin anew'
      )
    return None

  def _undescribed(
    self,
    steps: Sequence[int],
    known: Sequence[int],
    agree: Callable[[str, Any], list[Any]],
    say: Callable[[str], None],
  ) -> list[int]:
    """The steps, besides those known, whose description would keep Orbax from saving more."""
    found: list[int] = []
    for step in steps:
      try:
        names = ocp.path.step.standard_name_format()
        _ = names.find_step(self._place.path, step).commit_timestamp
      except Exception:  # Whatever Orbax may say of a damaged description.
        found.append(step)
    found = [step for step in agree('damaged descriptions', found)[0] if step not in known]
    for step in found:
      say(f'checkpoint {self.directory}/{step} is damaged: {_DESCRIPTION}; it is set aside')
    return found

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state of a step; whether it is what was saved is not looked at.

    Raises:
      InputError: if the checkpoint does not fit or is damaged.
    """
    args = {part: ocp.args.StandardRestore(getattr(like, part)) for part in _PARTS}
    items = self._read(step, args)
    # Not `device_put`, which compares the number among processes: one of them may not be here.
    number = np.asarray(step, np.int32)
    scalar = jax.make_array_from_callback((), like.step.sharding, lambda index: number[index])
    return TrainState(scalar, *(items[part] for part in _PARTS))

  def read_ema(self, step: int) -> dict[str, Any]:
    """The averaged parameters of a step, as they were saved, on the first local device.

    Raises:
      InputError: if the checkpoint is damaged.
    """
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
      with self._reading(step):
        metadata = self._tree(self._folder(step) / 'ema')
        like = jax.tree.map(
          lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), metadata
        )
      ema = self._read(step, {'ema': ocp.args.StandardRestore(like)})['ema']
      sums = self._sums(step)
      # The first versions saved no sums.
      if sums and int(_digest(ema)) != sums.get('ema'):
        raise InputError(self._damaged(step, 'ema'))
    except InputError as error:
      raise InputError(f'{error}; remove it to use the one before') from error
    return ema

  def stored_ema(self, step: int) -> dict[str, Any]:
    """The averaged parameters of a step, a nested dict of `StoredArray`: nothing is read yet.

    Raises:
      InputError: if the checkpoint is damaged, here or when an array is read; that its bits are not
        those that were saved shows when all of them have been.
    """
    with self._reading(step):
      metadata = self._tree(self._folder(step) / 'ema')
    handler = ocp.PyTreeCheckpointHandler()
    wanted, every = self._sums(step).get('ema'), jax.tree.leaves_with_path(metadata)
    place = {path: i for i, (path, _) in enumerate(every)}
    sums: dict[int, int] = {}

    def read(leaves: list[tuple[tuple, Any]]) -> list[np.ndarray]:
      args = ocp.args.PyTreeRestore(
        item=_nested((path, jax.ShapeDtypeStruct(x.shape, x.dtype)) for path, x in leaves),
        restore_args=_nested(
          (path, ocp.RestoreArgs(restore_type=np.ndarray)) for path, _ in leaves
        ),
        partial_restore=True,
      )
      with self._reading(step):
        found = handler.restore(self._folder(step) / 'ema', args=args)
      by_path = dict(jax.tree.leaves_with_path(found))
      for path, array in by_path.items():  # As `_digest` has it.
        bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        sums[place[path]] = int(bits.sum(dtype=np.uint32)) * (2 * place[path] + 1)
      if wanted is not None and len(sums) == len(every) and sum(sums.values()) % 2**32 != wanted:
        raise InputError(self._damaged(step, 'ema'))
      return [by_path[path] for path, _ in leaves]

    stored = []
    for group in _groups(every):
      neighbours = _Neighbours(functools.partial(read, group))
      stored += [
        (path, StoredArray(tuple(leaf.shape), functools.partial(neighbours.take, i)))
        for i, (path, leaf) in enumerate(group)
      ]
    return _nested(stored)

  def shapes(self, step: int) -> dict[str, Any]:
    """The shapes of the parameters of a step, a nested dict of tuples.

    Raises:
      InputError: if the checkpoint is damaged.
    """
    with self._reading(step):
      metadata = self._tree(self._folder(step) / 'params')
      return jax.tree.map(lambda leaf: tuple(leaf.shape), metadata)

  def _folder(self, step: int) -> epath.Path:
    """Where libraries read the checkpoint of a step."""
    if step in self._views:
      return self._views[step]
    folder = self._place.path / str(step)
    if unmerged(folder):
      self._views[step] = folder = merged(folder, self._place.temporary())
    return folder

  def _tree(self, folder: epath.Path) -> Any:
    """What has the shapes and dtypes of the arrays of a part, as a nested structure."""
    return self._reader.metadata(folder).tree

  def _read(self, step: int, args: dict[str, Any]) -> Any:
    with self._reading(step):
      folder = self._folder(step)
      return {part: self._reader.restore(folder / part, args=arg) for part, arg in args.items()}

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Whatever the libraries that read may say of damaged files.
      raise InputError(
        f'checkpoint {self.directory}/{step} cannot be read ({self._said(error)})'
      ) from error

  def _said(self, error: BaseException) -> str:
    """What a library says of an error, in one line."""
    lines = self._place.original(str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

  def _sums(self, step: int) -> dict[str, int]:
    """The sums over the bits of each part of a step, as it was saved; empty if there are none."""
    with self._reading(step):
      path = self._folder(step) / _DESCRIPTION
      try:
        found = json.loads(path.read_text())['custom_metadata'][_DIGESTS]
      except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
      return found if isinstance(found, dict) else {}

  def _damaged(self, step: int, part: str) -> str:
    return f'checkpoint {self.directory}/{step} is damaged: {part} is not what was saved'

  def _set_aside(self, steps: Sequence[int], agree: Callable[[str, Any], list[Any]]) -> None:
    """Moves damaged checkpoints out of the way of those that will be saved."""
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
        aside = self.directory.parent / DAMAGED / str(step)
        if aside.exists():
          aside.rmtree()
        aside.parent.mkdir(parents=True, exist_ok=True)
        (self.directory / str(step)).rename(aside)
    agree('damaged checkpoints set aside', None)

  def close(self) -> None:
    """Waits until what was begun is saved; of a failure `wait` and `save` tell, not this."""
    if '_manager' in self.__dict__:
      with contextlib.suppress(Exception):
        self._manager.close()
    self._place.close()
    self._views.clear()

  def cannot_write(self, reason: str) -> InputError:
    """What to tell where the disk refuses a file of the run."""
    with contextlib.suppress(Exception):
      self._manager.wait_until_finished()
    last = self.latest()
    whole = (
      'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is whole'
    )
    return InputError(
      f'cannot write to {self.directory.parent} ({reason}): free space or choose another --workdir,'
      f' then run the same command again; {whole}'
    )

  def _check_space(self, state: TrainState) -> None:
    # A disk that fills up while many files are written makes each of them print a traceback.
    if not is_local(self.directory):
      return
    needed = sum(x.nbytes for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self.directory.parent).free
    if free < needed:
      raise self.cannot_write(
        f'a checkpoint takes {needed / 1e6:.1f} MB, there are {free / 1e6:.1f} MB left'
      )

  def _guard(self, action: Callable[[], object]) -> None:
    try:
      action()
    except Exception as error:
      reason = refusal(error)
      if not reason:
        raise
      raise self.cannot_write(reason) from error


def _layout(tree: Any) -> _Layout:
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): (tuple(leaf.shape), str(leaf.dtype))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@jax.jit
def _digest(tree: Any) -> jax.Array:
  """uint32 []: a sum over the bits of all arrays, the same however they lie on a mesh.

  Whole numbers add up exactly in any order. Each array counts with an odd factor of its own, so
  that arrays cannot take each other's place.
  """
  total = jnp.zeros((), jnp.uint32)
  for i, leaf in enumerate(jax.tree.leaves(tree)):
    size = jnp.dtype(leaf.dtype).itemsize
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[size]
    leaf = jax.device_put(leaf, jax.memory.Space.Device)
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    total += jnp.sum(bits, dtype=jnp.uint32) * jnp.uint32(2 * i + 1)
  return total


def _groups(leaves: list[tuple[tuple, Any]]) -> Iterator[list[tuple[tuple, Any]]]:
  """Consecutive leaves (path, what has a shape) of at most _TOGETHER bytes, but at least one."""
  group: list[tuple[tuple, Any]] = []
  size = 0
  for path, leaf in leaves:
    nbytes = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    if group and size + nbytes > _TOGETHER:
      yield group
      group, size = [], 0
    group.append((path, leaf))
    size += nbytes
  if group:
    yield group


def _nested(leaves: Iterable[tuple[tuple, Any]]) -> dict[str, Any]:
  """A nested dict of leaves by their paths."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves:
    inner = tree
    for key in path[:-1]:
      inner = inner.setdefault(key.key, {})
    inner[path[-1].key] = leaf
  return tree


def refusal(error: BaseException | None) -> str:
  """Why the disk refused a file, where that is the cause of an error; else an empty string."""
  while error is not None:
    for number in _REFUSALS:
      reason = os.strerror(number).lower()
      # TensorStore tells it only in words.
      if getattr(error, 'errno', None) == number or reason in str(error).lower():
        return reason
    error = error.__cause__ or error.__context__
  return ''


def hush() -> None:
  """Keeps Orbax from telling each of its steps, and any failure more than once; for front doors."""
  logging.set_verbosity(logging.FATAL)
  before = sys.unraisablehook

  def shown(unraisable: 'sys.UnraisableHookArgs') -> None:
    # The writes that were under way when one of them failed find their event loop gone.
    if str(unraisable.exc_value) != 'Event loop is closed':
      before(unraisable)

  sys.unraisablehook = shown
