"""Account for the memory of one device during training."""

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
  """The memory of one device in bytes.

  Attributes:
    parameters: the parameters, frozen ones included.
    ema: the EMA of the parameters.
    optimizer: the optimizer state.
    batch: the input arrays of one step.
    temporaries: activations kept for the backward pass, gradients, and intermediate results.
    host: the device's share of arrays in host memory; not part of `total`.
  """

  parameters: float
  ema: float
  optimizer: float
  batch: float
  temporaries: float
  host: float = 0.0

  @property
  def total(self) -> float:
    """Bytes of device memory."""
    return self.parameters + self.ema + self.optimizer + self.batch + self.temporaries


def held(state: TrainState, batch: dict[str, Any], temporaries: float) -> Memory:
  """Return the memory of a train state and a batch.

  Args:
    state: arrays or shapes with shardings (see `compile.abstract_state`).
    batch: arrays or shapes with shardings.
    temporaries: bytes of all other device memory.
  """
  weights = state.params, state.frozen
  kinds = {'parameters': weights, 'ema': state.ema, 'optimizer': state.optimizer}
  leaves = {kind: jax.tree.leaves(tree) for kind, tree in kinds.items()}
  return Memory(
    **{kind: share(x for x in arrays if not _on_host(x)) for kind, arrays in leaves.items()},
    batch=share(batch.values()),
    temporaries=temporaries,
    host=share(x for arrays in leaves.values() for x in arrays if _on_host(x)),
  )


def share(arrays: Iterable[Any]) -> float:
  """Return the bytes of one device's shards of arrays, or of shapes with shardings."""
  return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x) for x in arrays))


def _on_host(x: Any) -> bool:
  return x.sharding.memory_kind == HOST


def _itemsize(x: Any) -> int:
  return 0 if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) else x.dtype.itemsize


def of_program(program: BufferLayout, state: TrainState, batch: dict[str, Any]) -> Memory:
  """Return the memory of a compiled train step.

  The sizes of state and batch come from their shardings, the rest from the buffer assignment.
  """
  exact = held(state, batch, 0.0)
  # The compiler counts the tile padding of arguments as part of the arguments.
  padding = max(program.arguments - exact.total, 0.0)
  return dataclasses.replace(exact, temporaries=program.temporaries + padding)
