"""What a run optimises: the one thing by which training a denoiser or a codec differs."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from ttm_jax.data import records

Array = jax.Array
Arrays = dict[str, Array]

VALIDATION = 'validation'  # The split of held-out clips.

# A metric is (sum, count): parts of a batch and steps of an interval add up, and are divided last.
Metrics = dict[str, tuple[Array, Array]]


class Objective(Protocol):
  """A network, its loss and its data.

  Attributes:
    sharding: parameter table of the network (see `parallel.mesh.shardings`).
    gather: whether weights that lie in parts are gathered before use, see `parallel.compiler`.
    parts: names, in the run directory, of what `begin` looks at where it exists.
  """

  sharding: tuple
  gather: bool
  parts: tuple[str, ...]

  @property
  def fps(self) -> float:
    """Frames per second of what `samples` shows."""
    ...

  @property
  def has_validation(self) -> bool:
    """Whether there are held-out clips; else the split 'validation' is of the training clips."""
    ...

  @property
  def flops_per_sample(self) -> float:
    """Floating-point operations of one training step, forward and backward."""
    ...

  def build(self, seed: int) -> nnx.Module:
    """The network with initial parameters."""
    ...

  def source(self, init_from: str) -> dict:
    """The parameters of the run to start from, NumPy arrays; InputError where it does not suit."""
    ...

  def transfer(self, source: dict, params: dict) -> dict:
    """Initial parameters with those of `source` brought in; like `params`; inside jit."""
    ...

  def batches(self, split: str, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the batches from a step on."""
    ...

  def loss(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Metrics]:
    """The loss of one batch, and metrics; inside jit."""
    ...

  def generate(self, model: nnx.Module, arrays: Arrays, key: Array) -> tuple[Array, Array]:
    """What `samples` shows, generated and true, before it becomes videos; inside jit."""
    ...

  def samples(self, model: nnx.Module, arrays: Arrays, key: Array) -> dict[str, np.ndarray]:
    """Videos to look at, uint8 [n, T, H, W, 3], by label; arrays hold one batch."""
    ...

  def begin(self, directory: Path) -> None:
    """Writes into the run directory what is known beforehand and whoever uses the run needs.

    Raises:
      InputError: if something else of the kind is there already.
    """
    ...

  def finish(self, directory: Path, model: nnx.Module) -> None:
    """Writes into the run directory what follows from the averaged weights of the last step.

    Only one process does, outside the mesh.
    """
    ...


def has_validation(directory: str | Path) -> bool:
  """Tell whether a dataset has held-out clips."""
  return VALIDATION in records.splits(directory)


def held_out(directory: str | Path, split: str) -> str:
  """The split to read; a dataset without held-out clips is watched on those it trains on."""
  return 'train' if split == VALIDATION and not has_validation(directory) else split


def gather(array: Array) -> np.ndarray:
  """An array on the host, whole, wherever its parts lie; all processes call this together."""
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def stream(key: Array, name: str, step: Array | int) -> Array:
  """The key of one use of randomness at one step; uses are told apart by name."""
  return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)
