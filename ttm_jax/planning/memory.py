"""What lies in the memory of one device while a run trains."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax

from ttm_jax.parallel.mesh import HOST
from ttm_jax.planning.layout import BufferLayout
from ttm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    parameters, ema, optimizer: the state of the run.
    batch: the arrays of one step.
    temporaries: activations kept for the backward pass, gradients, and whatever the step needs in
      between.
    host: the device's share of what lies in the memory of its host; not part of `total`.
  """

  parameters: float
  ema: float
  optimizer: float
  batch: float
  temporaries: float
  host: float = 0.0

  @property
  def total(self) -> float:
    return self.parameters + self.ema + self.optimizer + self.batch + self.temporaries


def held(state: TrainState, batch: dict[str, Any], temporaries: float) -> Memory:
  """The memory of a state and a batch whose arrays know where they lie (`abstract_state`)."""
  kinds = {'parameters': state.params, 'ema': state.ema, 'optimizer': state.optimizer}
  sizes = {kind: share(jax.tree.leaves(tree), HOST, False) for kind, tree in kinds.items()}
  host = sum(share(jax.tree.leaves(tree), HOST, True) for tree in kinds.values())
  return Memory(**sizes, batch=share(batch.values()), temporaries=temporaries, host=host)


def share(arrays: Iterable[Any], kind: str | None = None, within: bool = False) -> float:
  """Bytes of one device's parts of arrays.

  Args:
    kind: a kind of memory, to count only what lies in it (`within`) or elsewhere.
  """
  return float(
    sum(
      math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x)
      for x in arrays
      if kind is None or (x.sharding.memory_kind == kind) == within
    )
  )


def whole(arrays: Iterable[Any]) -> float:
  """Bytes of the arrays that every device holds whole, although there are several devices."""
  return float(
    sum(math.prod(x.shape) * _itemsize(x) for x in arrays if x.sharding.is_fully_replicated)
  )


def _itemsize(x: Any) -> int:
  return 0 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) else x.dtype.itemsize


def of_program(program: BufferLayout, state: TrainState, batch: dict[str, Any]) -> Memory:
  """The memory of a train step: the state and the batch as they lie, the rest as laid out."""
  exact = held(state, batch, 0.0)
  # What the compiler adds to arguments to fill their tiles, it counts as theirs.
  padding = max(program.arguments - exact.total, 0.0)
  return dataclasses.replace(exact, temporaries=program.temporaries + padding)
