"""Checkpoints of the whole training state: asynchronous, atomic, restorable to any mesh."""

import contextlib
import errno
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ttm_jax.errors import InputError
from ttm_jax.training.state import TrainState

_PARTS = ('params', 'ema', 'optimizer')


class Checkpoints:
  """The checkpoints in one folder, each under its step.

  The parts of the state are separate items, so that a reader of the averaged parameters need not
  load the optimiser. A checkpoint appears under its name only when it is whole. The folder is made
  by the first save.
  """

  def __init__(
    self, directory: Path, keep_last: int = 3, keep_every: int = 0, read_only: bool = False
  ):
    """Args:
    keep_last: so many of the newest are kept, 0 for all.
    keep_every: besides, those of the steps that it divides; 0 for none.
    read_only: for readers of a run that may be training; they leave what is half-written alone.
    """
    self.directory = Path(directory).absolute()
    self._options = ocp.CheckpointManagerOptions(
      max_to_keep=keep_last or None,
      keep_period=keep_every or None,
      create=not read_only,
      cleanup_tmp_directories=not read_only,  # What a killed process left.
    )

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    handlers = {part: ocp.StandardCheckpointHandler() for part in _PARTS}
    return ocp.CheckpointManager(self.directory, options=self._options, item_handlers=handlers)

  def latest(self) -> int | None:
    """The step of the newest whole checkpoint; None if there is none."""
    return self._manager.latest_step() if self.directory.exists() else None

  def save(self, state: TrainState) -> None:
    """Begins to save; returns when the state may be overwritten.

    Raises:
      InputError: if a save, this or the one before, could not be written.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    args = {part: ocp.args.StandardSave(getattr(state, part)) for part in _PARTS}
    self._guard(lambda: self._manager.save(step, args=ocp.args.Composite(**args)))

  def wait(self) -> None:
    """Waits until what was begun is saved.

    Raises:
      InputError: if it could not be written.
    """
    self._guard(self._manager.wait_until_finished)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The state of a step.

    Args:
      like: a state of jax.ShapeDtypeStruct with shardings; they may differ from those at saving.

    Raises:
      InputError: if the checkpoint does not fit or is damaged.
    """
    args = {part: ocp.args.StandardRestore(getattr(like, part)) for part in _PARTS}
    try:
      items = self._manager.restore(step, args=ocp.args.Composite(**args))
    except (ValueError, KeyError, OSError) as error:
      raise InputError(
        f'checkpoint {self.directory}/{step} cannot be restored'
        f' ({_first_line(error)}); remove it to continue from the one before'
      ) from error
    scalar = jax.device_put(np.asarray(step, np.int32), like.step.sharding)
    return TrainState(scalar, *(items[part] for part in _PARTS))

  def read_ema(self, step: int) -> dict[str, Any]:
    """The averaged parameters of a step, as they were saved, on the first local device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    metadata = self._manager.item_metadata(step)['ema']
    like = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), metadata
    )
    args = ocp.args.Composite(ema=ocp.args.StandardRestore(like))
    try:
      return self._manager.restore(step, args=args)['ema']
    except (ValueError, KeyError, OSError) as error:
      raise InputError(
        f'checkpoint {self.directory}/{step} is damaged ({_first_line(error)}); remove it to use'
        ' the one before'
      ) from error

  def shapes(self, step: int) -> dict[str, Any]:
    """The shapes of the parameters of a step, a nested dict of tuples."""
    metadata = self._manager.item_metadata(step)['params']
    return jax.tree.map(lambda leaf: tuple(leaf.shape), metadata)

  def close(self) -> None:
    """Waits until what was begun is saved; of a failure `wait` and `save` tell, not this."""
    if '_manager' in self.__dict__:
      with contextlib.suppress(Exception):
        self._manager.close()

  def cannot_write(self, error: BaseException) -> str:
    """The sentence for a disk that refuses a file of the run."""
    last = self.latest()
    whole = f'the checkpoint of step {last} is whole' if last is not None else 'there is none yet'
    return (
      f'cannot write to {self.directory.parent} ({_first_line(error)}): free space or choose'
      f' another --workdir, then run the same command again; {whole}'
    )

  def _guard(self, action) -> None:
    try:
      action()
    except Exception as error:
      if not is_write_error(error):
        raise
      raise InputError(self.cannot_write(error)) from error


def is_write_error(error: BaseException | None) -> bool:
  """Whether the cause is the disk: full, over quota, read-only."""
  words = ('no space left', 'file too large', 'read-only', 'disk quota', 'permission denied')
  numbers = (errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EACCES)
  while error is not None:
    if getattr(error, 'errno', None) in numbers or any(w in str(error).lower() for w in words):
      return True
    error = error.__cause__ or error.__context__
  return False


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines()
  return lines[0][:200] if lines else type(error).__name__
