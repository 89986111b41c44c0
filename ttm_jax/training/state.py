"""What training changes, as one unit: parameters, their moving average, optimiser, step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import HOST
from ttm_jax.training import spike_guard
from ttm_jax.training.packing import pack

Array = jax.Array
Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """The state of a run; checkpointed whole.

  Attributes:
    step: int32 [], optimiser steps done.
    params: nested dict of float32 arrays.
    ema: their exponential moving average, used for sampling.
    optimizer: state of the optimiser, which sees the parameters packed.
    guard: what is remembered of the losses.
  """

  step: Array
  params: Params
  ema: Params
  optimizer: Any
  guard: spike_guard.SpikeGuard


def create(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  ema = jax.tree.map(jnp.copy, params)
  begin = optimizer.init(pack(params))
  return TrainState(jnp.zeros((), jnp.int32), params, ema, begin, spike_guard.create())


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
  """AdamW with clipping by global norm, linear warm-up, then a constant or cosine rate.

  Matrices and convolutions decay. Norms, biases and the tables that modulate each block do not:
  these hold gates that begin at 1.

  Args:
    config: learning_rate, warmup, schedule, b1, b2, eps, weight_decay, clip, offload: whether the
      two moments lie in the memory of the host.
    steps: of the run; where the cosine reaches zero.

  Raises:
    InputError: for an unknown schedule.
  """
  peak, warmup = config.learning_rate, config.warmup
  if config.schedule == 'constant':
    after = optax.constant_schedule(peak)
  elif config.schedule == 'cosine':
    after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
  else:
    raise InputError(
      f"config.optimizer.schedule must be 'constant' or 'cosine', got {config.schedule!r}"
    )
  rate = optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])
  made = optax.chain(
    _clip(config.clip),
    optax.adamw(
      rate,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
    ),
  )
  return _fetching(made) if config.offload else made


def placement(table: tuple, config: ConfigDict) -> tuple:
  """A parameter table, for a state whose optimiser part lies where `config.offload` wants it."""
  return (('^optimizer', HOST), *table) if config.offload else table


def _clip(most: float) -> optax.GradientTransformationExtraArgs:
  """Clipping by the global norm, which the train step knows already (`norm`)."""

  def update(grads, state, params=None, *, norm=None, **_):
    norm = optax.global_norm(grads) if norm is None else norm
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, most / norm), grads), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _fetching(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """The optimiser with its state fetched from the host's memory; where it goes is up to jit."""
  optimizer = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, **more):
    state = jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), state)
    return optimizer.update(grads, state, params, **more)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _decays(path: tuple, param: Array) -> bool:
  """Tell whether a packed parameter decays, see `make_optimizer`."""
  name = jax.tree_util.keystr(path, simple=True, separator='.').split('.')
  # Stacked blocks have a leading layer axis, which makes no matrix of a vector.
  stacked = any('blocks' in part for part in name)
  modulates = stacked and name[-1] == 'table'
  return param.ndim - stacked > 1 and not modulates
