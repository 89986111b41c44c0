"""Parameters from which a run starts: those of another run, or open weights."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from ttm_jax.errors import InputError
from ttm_jax.training import digests, runs
from ttm_jax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Source:
  """Parameters in files.

  Attributes:
    params: nested dict of float32 arrays, or of objects that read them: with `shape`, `__array__`,
      and often `__getitem__` for slices.
    check: called with the checksums of all parameters (see `placing.place`) once they are read;
      raises InputError if these are not the values that were saved.
    files: the files of open weights; empty for a run.
  """

  params: dict[str, Any]
  check: Callable[[Sequence[int]], None] = lambda sums: None
  files: frozenset[Path] = frozenset()

  @classmethod
  def of_weights(cls, params: dict[str, Any]) -> 'Source':
    """Return a source of imported parameters (see `pretrained.names.StoredParameter`)."""
    return cls(params, files=frozenset().union(*(x.files for x in jax.tree.leaves(params))))


def of_run(run: epath.PathLike) -> Source:
  """Return the EMA parameters of the newest checkpoint of a run.

  Raises:
    InputError: if there is no checkpoint, or it is corrupt.
  """
  checkpoints = Checkpoints(epath.Path(run) / runs.CHECKPOINTS, read_only=True)
  step = checkpoints.latest()
  if step is None:
    raise InputError(f'run {run} has no checkpoint yet: train it longer, or give another run')
  stored = checkpoints.stored_ema(step)

  def check(sums: Sequence[int]) -> None:
    checkpoints.check_ema(step, digests.of_sums(sums))

  return Source(stored, check)
