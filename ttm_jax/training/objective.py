"""The interface between the training loop and what it trains: a denoiser or a codec."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils

from ttm_jax.data import records
from ttm_jax.training.sources import Source

Array = jax.Array
Arrays = dict[str, Array]

VALIDATION = 'validation'  # Name of the validation split.

# A metric is (sum, count), so that microbatches and steps can be summed before dividing.
Metrics = dict[str, tuple[Array, Array]]


# Scores samples: (ground truth, generated, label maps, fps) -> values by metric. Videos are uint8
# [n, T, H, W, 3], label maps uint8 [n, T, H, W].
Score = Callable[[np.ndarray, np.ndarray, np.ndarray, float], dict[str, float]]


class Objective(Protocol):
  """A network, its loss and its data.

  Attributes:
    sharding: sharding rules of the parameters (see `parallel.mesh.shardings`).
    gather: whether sharded weights are all-gathered before use, see `parallel.compiler`.
    parts: names of the files and folders of the run directory that `begin` reads if they exist.
  """

  sharding: tuple
  gather: bool
  parts: tuple[str, ...]

  @property
  def frozen(self) -> Mapping[str, Any]:
    """The dtype of each parameter that is not trained, by dotted path; empty without LoRA."""
    ...

  @property
  def kinds(self) -> int:
    """Number of kinds of batches whose losses differ, such as the shapes of a mixture."""
    ...

  def kind(self, arrays: Arrays) -> int:
    """Return the kind of a batch, from 0; it depends on the shapes of the arrays only."""
    ...

  @property
  def fps(self) -> float:
    """Frames per second of the videos of `samples`."""
    ...

  @property
  def has_validation(self) -> bool:
    """Whether there is a validation split; if not, 'validation' reads training clips."""
    ...

  @property
  def flops_per_sample(self) -> float:
    """Floating-point operations of one sample in a training step, forward and backward."""
    ...

  def build(self, seed: int) -> nnx.Module:
    """Return the network with initial parameters."""
    ...

  def source(self, init_from: str) -> Source:
    """Return the parameters to initialize from.

    Args:
      init_from: a run directory, or another source that the objective supports.

    Raises:
      InputError: if the source does not fit this network.
    """
    ...

  def transfer(self, source: dict, params: dict) -> dict:
    """Return `params` with values replaced from `source`, same structure; inside jit."""
    ...

  def batches(self, split: str, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield this process's rows of each batch of a split, starting with step `start`."""
    ...

  def validation(self, count: int) -> list[tuple[float, list[dict[str, np.ndarray]]]]:
    """Return `count` batches of each dataset for evaluation, with the weight of the dataset."""
    ...

  def loss(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Metrics]:
    """Return the loss of one batch, float32 [], and metrics with at least 'loss'; inside jit."""
    ...

  def generate(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Array]:
    """Return generated and ground truth arrays for `samples`, before decoding; inside jit."""
    ...

  def samples(self, model: nnx.Module, arrays: Arrays, key: Array) -> dict[str, np.ndarray]:
    """Return videos to log, uint8 [n, T, H, W, 3], by label.

    All processes call this together; `arrays` is one batch.
    """
    ...

  def label_maps(self, arrays: Arrays) -> np.ndarray:
    """Return the label maps of `samples`, uint8 [n, T, H, W], as metrics of samples need them.

    All processes call this together; `arrays` is one batch.
    """
    ...

  def check_run(self, run: epath.Path) -> None:
    """Check before its checkpoints are read that a run, which need not exist, has the same kinds.

    Raises:
      InputError: if it has others.
    """
    ...

  def begin(self, directory: Path) -> None:
    """Write to the run directory what later users of the run need and is known before training.

    Raises:
      InputError: if the directory already holds different data of this kind.
    """
    ...

  def finish(self, directory: Path, average: Callable[[], nnx.Module]) -> None:
    """Write to the run directory what is derived from the final EMA weights.

    Only process 0 calls this, outside the mesh. `average` returns the network with these weights,
    all of which this process can read.
    """
    ...


def has_validation(directory: str | Path) -> bool:
  """Return whether a dataset has a validation split."""
  return VALIDATION in records.splits(directory)


def held_out(directory: str | Path, split: str) -> str:
  """Return the split to read: 'train' for 'validation' if the dataset has no validation split."""
  return 'train' if split == VALIDATION and not has_validation(directory) else split


def gather(array: Array) -> np.ndarray:
  """All-gather a sharded array to the host; all processes call this together."""
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
