"""The training state (parameters, EMA, optimizer state, step) and the optimizer."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import HOST
from ttm_jax.training import spike_guard
from ttm_jax.training.packing import GATE, pack
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


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
  """Return AdamW with global norm clipping, linear warmup, then a constant or cosine schedule.

  Weight decay applies to kernels of linear and convolutional layers. It does not apply to norms,
  biases and the modulation tables of blocks, which hold gates that are initialized to 1.

  Args:
    config: learning_rate, warmup (steps), schedule, b1, b2, eps, weight_decay, clip (global norm),
      gate_rate (learning rate of the gates of masked layers, relative to that of the rest), offload
      (whether the optimizer state is in host memory).
    steps: number of steps of the run, after which the cosine schedule reaches zero.

  Raises:
    InputError: if the schedule is unknown.
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
    optax.masked(
      optax.scale(config.gate_rate),
      lambda params: {name: bool(GATE.search(name)) for name in params},
    ),
  )
  return _fetching(made) if config.offload else made


def placement(table: tuple, config: ConfigDict) -> tuple:
  """Return sharding rules for a state, with the optimizer state in host memory if `offload` is set.

  Args:
    table: sharding rules of the parameters, see `parallel.mesh.shardings`.
    config: the section `optimizer` of the configuration.
  """
  return (('^optimizer', HOST), *table) if config.offload else table


def _clip(most: float) -> optax.GradientTransformationExtraArgs:
  """Return clipping by global norm; the train step passes the norm it has computed (`norm`)."""

  def update(grads, state, params=None, *, norm=None, **_):
    norm = optax.global_norm(grads) if norm is None else norm
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, most / norm), grads), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _fetching(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """Copy the optimizer state from host to device memory before an update.

  The output shardings of jit copy it back.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, **more):
    state = jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), state)
    return optimizer.update(grads, state, params, **more)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _decays(path: tuple, param: Array) -> bool:
  """Return whether weight decay applies to a packed parameter, see `make_optimizer`."""
  name = jax.tree_util.keystr(path, simple=True, separator='.').split('.')
  # Stacked blocks have a leading layer axis: their vectors have two axes but are not kernels.
  stacked = any('blocks' in part for part in name)
  modulates = name[-1] == 'table' and 'words' not in name
  return param.ndim - stacked > 1 and not modulates
