"""Save and restore the training state: asynchronous, atomic, restorable to any mesh."""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from ttm_jax.atomic import flush, flush_tree
from ttm_jax.data.storage import absolute, is_local
from ttm_jax.errors import InputError
from ttm_jax.training import best, digests
from ttm_jax.training.orbax_errors import refusal
from ttm_jax.training.place import PlainPath, check_address
from ttm_jax.training.state import TrainState
from ttm_jax.training.stored_arrays import StoredArray, open_arrays
from ttm_jax.training.unmerged import merged, unmerged

_PARTS = ('params', 'ema', 'optimizer', 'guard')
_DIGESTS = 'digests'
DESCRIPTION = '_CHECKPOINT_METADATA'
DAMAGED = 'damaged'  # Folder for corrupt checkpoints, next to the checkpoints folder.
_TIMEOUT = 600  # Seconds for all processes to write their shards of a checkpoint.

# Shape and dtype of each array of an item, by its dotted path.
_Layout = dict[str, tuple[tuple[int, ...], str]]


class Durable(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """An Orbax temporary folder that is flushed to disk when it gets its final name.

  Orbax removes older checkpoints only after that, so a complete one is on disk at all times.
  """

  async def finalize(self) -> None:
    await super().finalize()
    final = self.get_final()
    flush_tree(final)
    flush(final.parent)


class Checkpoints:
  """Manage the checkpoints of a run: one folder, one subfolder per step.

  The fields of the state are separate items, so the EMA can be loaded without the optimizer state.
  A checkpoint gets its final name only after it is complete and its array metadata was read back.
  The shapes and dtypes must be those that were saved. It stores a checksum of each item, which
  `restore_newest` and `stored_ema` verify. The first save creates the folder, which may be on gs://.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    keep_last: int = 3,
    keep_every: int = 0,
    keep_best: bool = False,
    read_only: bool = False,
  ):
    """Open a checkpoints folder, which need not exist.

    Args:
      directory: the folder.
      keep_last: number of newest checkpoints to keep; 0 keeps all.
      keep_every: also keep the steps divisible by this number; 0 for none.
      keep_best: also keep the best checkpoint by the ratings given to `save`.
      read_only: do not create the folder and do not remove incomplete checkpoints. Use it to read a
        run that may still be training.

    Raises:
      InputError: if checkpoints cannot be saved at this address.
    """
    self.directory = absolute(directory)
    self._place = PlainPath(self.directory)
    self._read_only = read_only
    if not read_only:
      check_address(self.directory)
    self._views: dict[int, epath.Path] = {}  # Readable views of unmerged checkpoints, by step.
    self._expected: tuple[int, dict[str, _Layout]] = 0, {}  # Step and layout of the current save.
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=_preservation(keep_last, keep_every, keep_best),
      best_fn=best.rating if keep_best else None,
      create=not read_only,
      cleanup_tmp_directories=not read_only,  # Left behind by killed processes.
      async_options=ocp.AsyncOptions(
        timeout_secs=_TIMEOUT, post_finalization_callback=self._confirm
      ),
      temporary_path_class=Durable if is_local(self.directory) else None,
    )

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    """The Orbax manager, used for saving only: it rejects a folder with one corrupt checkpoint."""
    if not self._read_only:
      self.directory.mkdir(parents=True, exist_ok=True)
    handlers = {part: ocp.StandardCheckpointHandler() for part in _PARTS}
    return ocp.CheckpointManager(self._place.path, options=self._options, item_handlers=handlers)

  @functools.cached_property
  def _reader(self) -> ocp.StandardCheckpointHandler:
    """The handler used for reading; it has no barriers, so one failing process blocks no other."""
    return ocp.StandardCheckpointHandler()

  def steps(self) -> list[int]:
    """Return the steps of all complete checkpoints, ascending."""
    if not self.directory.exists():
      return []
    names = ocp.path.step.standard_name_format()
    return sorted(found.step for found in names.find_all(self._place.path))

  def latest(self) -> int | None:
    """Return the step of the newest complete checkpoint, or None if there is none."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """Return the step of the complete checkpoint with the highest rating; None without ratings."""
    ratings = {step: best.stored_rating(self._place.path / str(step)) for step in self.steps()}
    rated = {step: value for step, value in ratings.items() if value is not None}
    return max(rated, key=rated.__getitem__, default=None)

  def save(self, state: TrainState, rated: dict[str, float] | None = None) -> None:
    """Start saving a state in the background; return when its arrays may be donated.

    Wait for the previous save first. Do nothing if the step is already saved.

    Args:
      state: the state to save, under `state.step`.
      rated: its rating, see `best.Best.rate`, the same in all processes; None if it has none.

    Raises:
      InputError: if this save or the previous one could not be written or read back.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    if jax.process_index() == 0:
      self._check_space(state)
    self.wait()
    parts = {part: getattr(state, part) for part in _PARTS}
    self._expected = step, {part: _layout(tree) for part, tree in parts.items()}
    sums = {part: int(digests.of_tree(tree)) for part, tree in parts.items()}
    args = {part: ocp.args.StandardSave(tree) for part, tree in parts.items()}
    self._guard(
      lambda: self._manager.save(
        step,
        args=ocp.args.Composite(**args),
        metrics=rated,
        custom_metadata={_DIGESTS: sums},
      )
    )

  def _confirm(self) -> None:
    """Check the array metadata of a written checkpoint before it gets its final name.

    Orbax calls this in the saving thread, in one process.

    Raises:
      InputError: if arrays are missing or their shapes or dtypes differ from the saved ones.
    """
    step, expected = self._expected
    path = self._place.path
    written = [f for f in path.iterdir() if f.name.startswith(f'{step}.')]
    (folder,) = written or [path / str(step)]  # Buckets: no rename, so already the final name.
    for part, layout in expected.items():
      try:
        found = _layout(self._tree(folder / part))
      except Exception as error:  # Orbax and TensorStore raise many types.
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
    """Whether a save is still in progress."""
    return self._manager.is_saving_in_progress()

  def wait(self) -> None:
    """Wait for the current save to finish.

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
    """Restore the newest readable state.

    A checkpoint that any process cannot read, or whose checksums differ, is reported. Once an older
    one is restored, it is moved to the folder `damaged`. All processes of a job call this together.

    Args:
      like: a state of jax.ShapeDtypeStruct with shardings, which may differ from those at saving.
      check: called with the parameter shapes of a checkpoint; raises InputError if the checkpoint
        belongs to a different network.
      agree: a barrier that returns the value of each process, see `Peers.agree`.
      say: called with each message for the user.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      InputError: from `check`, or if there are checkpoints and none can be read.
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
        wrong = [p for p in _PARTS if int(digests.of_tree(getattr(state, p))) != sums.get(p)]
        problem = self._damaged(step, wrong[0]) if wrong else ''
        if not sums:
          problem = f'checkpoint {self.directory}/{step} is damaged: {DESCRIPTION} has no sums'
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
    """Return the steps, except `known` ones, whose metadata would make the Orbax manager fail."""
    found: list[int] = []
    for step in steps:
      try:
        names = ocp.path.step.standard_name_format()
        _ = names.find_step(self._place.path, step).commit_timestamp
      except Exception:  # Orbax raises many types for corrupt metadata.
        found.append(step)
    found = [step for step in agree('damaged descriptions', found)[0] if step not in known]
    for step in found:
      say(f'checkpoint {self.directory}/{step} is damaged: {DESCRIPTION}; it is set aside')
    return found

  def restore(self, step: int, like: TrainState) -> TrainState:
    """Restore the state of a step without verifying its checksums.

    Args:
      step: step of the checkpoint.
      like: a state of jax.ShapeDtypeStruct with shardings.

    Raises:
      InputError: if the checkpoint does not match `like` or is corrupt.
    """
    with self._reading(step):
      folder = self._folder(step)
      items = [
        self._reader.restore(folder / part, args=ocp.args.StandardRestore(getattr(like, part)))
        for part in _PARTS
      ]
    # Not `device_put`: it compares values across processes, and one may have failed to read above.
    number = np.asarray(step, np.int32)
    scalar = jax.make_array_from_callback((), like.step.sharding, lambda index: number[index])
    return TrainState(scalar, *items)

  def stored_ema(self, step: int) -> dict[str, Any]:
    """Return the EMA parameters of a step as a nested dict of lazily loaded `StoredArray`.

    Raises:
      InputError: if the checkpoint is corrupt, here or when an array is read. The checksum is
        verified when the last array has been read whole; for arrays read in slices, call
        `check_ema`.
    """
    with self._reading(step):
      folder = self._folder(step) / 'ema'
      leaves, structure = jax.tree.flatten(self._tree(folder))
      stores = open_arrays(folder, [leaf.name for leaf in leaves])
    sums: dict[int, int] = {}

    def read(place: int, index: tuple[slice, ...] | None) -> np.ndarray:
      with self._reading(step):
        array = stores[place][... if index is None else index].read().result()
      if index is None:
        sums[place] = digests.of_array(array, place)
        if len(sums) == len(leaves):
          self.check_ema(step, sum(sums.values()) % 2**32)
      return array

    stored = [
      StoredArray(store.shape, functools.partial(read, i)) for i, store in enumerate(stores)
    ]
    return jax.tree.unflatten(structure, stored)

  def check_ema(self, step: int, found: int) -> None:
    """Raise InputError unless the EMA parameters of a step have this checksum.

    Checkpoints of the first versions have no checksums.
    """
    if self._sums(step).get('ema') not in (None, found):
      raise InputError(self._damaged(step, 'ema'))

  def shapes(self, step: int) -> dict[str, Any]:
    """Return the parameter shapes of a step as a nested dict of tuples.

    Raises:
      InputError: if the checkpoint is corrupt.
    """
    with self._reading(step):
      metadata = self._tree(self._folder(step) / 'params')
      return jax.tree.map(lambda leaf: tuple(leaf.shape), metadata)

  def _folder(self, step: int) -> epath.Path:
    """Return the path to read a step from: its folder, or a view if it was never merged."""
    if step in self._views:
      return self._views[step]
    folder = self._place.path / str(step)
    if unmerged(folder):
      self._views[step] = folder = merged(folder, self._place.temporary())
    return folder

  def _tree(self, folder: epath.Path) -> Any:
    """Return the array metadata (shape, dtype) of an item as a nested structure."""
    return self._reader.metadata(folder).tree

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """Convert any exception of the block to InputError naming the checkpoint."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore raise many types for corrupt files.
      raise InputError(
        f'checkpoint {self.directory}/{step} cannot be read ({self._said(error)})'
      ) from error

  def _said(self, error: BaseException) -> str:
    """Return the first line of a library's error message, with the user's path in it."""
    lines = self._place.original(str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

  def _sums(self, step: int) -> dict[str, int]:
    """Return the stored checksum of each item of a step; empty if there are none."""
    with self._reading(step):
      path = self._folder(step) / DESCRIPTION
      try:
        found = json.loads(path.read_text())['custom_metadata'][_DIGESTS]
      except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
      return found if isinstance(found, dict) else {}

  def _damaged(self, step: int, part: str) -> str:
    return f'checkpoint {self.directory}/{step} is damaged: {part} is not what was saved'

  def _set_aside(self, steps: Sequence[int], agree: Callable[[str, Any], list[Any]]) -> None:
    """Move corrupt checkpoints to the folder `damaged`, so that their steps can be saved again."""
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
    """Wait for the current save and release resources; only `wait` and `save` report failures."""
    if '_manager' in self.__dict__:
      with contextlib.suppress(Exception):
        self._manager.close()
    self._place.close()
    self._views.clear()

  def cannot_write(self, reason: str) -> InputError:
    """Return the error to raise if a file of the run cannot be written, for example on a full disk.

    Args:
      reason: the error of the file system, such as 'no space left on device'.
    """
    with contextlib.suppress(Exception):
      self._manager.wait_until_finished()
    last = self.latest()
    whole = (
      'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is complete'
    )
    return InputError(
      f'cannot write to {self.directory.parent} ({reason}): free space or choose another --workdir,'
      f' then run the same command again; {whole}'
    )

  def _check_space(self, state: TrainState) -> None:
    """Raise InputError if the local disk has less free space than the state has bytes."""
    # Checked beforehand: if the disk fills up during a save, each failing file prints a traceback.
    if not is_local(self.directory):
      return
    needed = sum(x.nbytes for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self.directory.parent).free
    if free < needed:
      raise self.cannot_write(
        f'a checkpoint takes {needed / 1e6:.1f} MB, there are {free / 1e6:.1f} MB left'
      )

  def _guard(self, action: Callable[[], object]) -> None:
    """Call `action`; convert file system errors such as a full disk to InputError."""
    try:
      action()
    except Exception as error:
      reason = refusal(error)
      if not reason:
        raise
      raise self.cannot_write(reason) from error


def _preservation(keep_last: int, keep_every: int, keep_best: bool) -> policies.PreservationPolicy:
  """Return what says which checkpoints are kept."""
  kept: list[policies.PreservationPolicy] = [policies.LatestN(keep_last or None)]
  if keep_every:
    kept.append(policies.EveryNSteps(keep_every))
  if keep_best:
    kept.append(
      policies.BestN(get_metric_fn=best.rating, n=1, keep_checkpoints_without_metrics=False)
    )
  return policies.AnyPreservationPolicy(kept)


def _layout(tree: Any) -> _Layout:
  """Return shape and dtype of each array of a tree, by its dotted path."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): (tuple(leaf.shape), str(leaf.dtype))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
