"""The training state: parameters, EMA, optimizer state, step."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ttm_jax.training import spike_guard
from ttm_jax.training.packing import pack
from ttm_jax.training.partial import Params, dotted, merged, split

Array = jax.Array


@flax.struct.dataclass
class TrainState:
  """The state of a run; a checkpoint holds all of it but the frozen parameters.

  Attributes:
    step: int32 [], number of steps done, skipped ones included.
    params: the trained parameters, a nested dict of float32 arrays.
    ema: exponential moving average of `params`, used for sampling.
    optimizer: optimizer state, for the parameters as packed by `packing.pack`.
    guard: running statistics of the loss.
    frozen: the parameters that are not trained, a nested dict; empty without LoRA.
  """

  step: Array
  params: Params
  ema: Params
  optimizer: Any
  guard: spike_guard.SpikeGuard
  frozen: Params = flax.struct.field(default_factory=dict)

  @property
  def average(self) -> Params:
    """All parameters of the network, with the EMA of those that are trained."""
    return merged(self.frozen, self.ema)


def create(
  params: Params,
  optimizer: optax.GradientTransformation,
  frozen: Mapping[str, Any] = {},
  kinds: int = 1,
) -> TrainState:
  """Return the state before the first step.

  Args:
    params: nested dict of all parameters.
    optimizer: for the trained parameters.
    frozen: the dtype of each parameter that is not trained, by dotted path.
    kinds: number of kinds of batches, whose losses have statistics of their own.
  """
  params, base = split(params, frozen)
  base = jax.tree.map_with_path(lambda path, x: x.astype(frozen[dotted(path)]), base)
  params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  ema = jax.tree.map(jnp.copy, params)
  begin = optimizer.init(pack(params))
  guard = spike_guard.create(kinds)
  return TrainState(jnp.zeros((), jnp.int32), params, ema, begin, guard, base)
