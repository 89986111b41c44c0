"""The optimizer of a run: AdamW or, for the kernels of blocks, Muon; clipping and a schedule."""

import re

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers

from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import HOST
from ttm_jax.training.packing import GATE
from ttm_jax.training.students import STUDENT

Array = jax.Array

# Kernels that are in no block of a backbone.
_OUTSIDE = re.compile(
  r'(^|\.)(embed\w*|conv_in|conv_out|conv_visual|head|patches|\w*modulation|text|time)\.'
)


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
  """Return AdamW with global norm clipping, linear warmup, then one of three schedules.

  After the warmup, 'constant' keeps the learning rate, 'cosine' and 'linear' decay it to zero.

  With a `muon_rate` above 0, the kernels of blocks are updated by Muon instead (Jordan et al.,
  https://kellerjordan.github.io/posts/muon; optax.contrib), with this learning rate and the same
  schedule.

  Weight decay applies to kernels of linear and convolutional layers. It does not apply to norms,
  biases and the modulation tables of blocks, which hold gates that are initialized to 1.

  Args:
    config: learning_rate, muon_rate, warmup (steps), schedule, b1, b2, eps, weight_decay, clip
      (global norm), gate_rate (learning rate of the gates of masked layers, relative to that of the
      rest), student_rate (that of a distilled student, relative to its critic), offload (whether
      the optimizer state is in host memory).
    steps: number of steps of the run, after which a schedule that decays reaches zero.

  Raises:
    InputError: if the schedule is unknown.
  """
  updates = _adamw(config, steps)
  if config.muon_rate:
    muon = optax.contrib.muon(
      _schedule(config, config.muon_rate, steps),
      weight_decay=config.weight_decay,
      muon_weight_dimension_numbers=lambda params: jax.tree.map(_matrix, params),
    )
    updates = optax.partition({'muon': muon, 'adamw': updates}, _labels)
  gates = optax.masked(
    optax.scale(config.gate_rate),
    lambda params: {name: bool(GATE.search(name)) for name in params},
  )
  made = optax.chain(_clip(config.clip), updates, gates)
  if (rate := config.get('student_rate', 1.0)) != 1:
    students = optax.masked(
      optax.scale(rate), lambda params: {name: name.startswith(f'{STUDENT}.') for name in params}
    )
    made = optax.chain(made, students)
  return _fetching(made) if config.offload else made


def placement(table: tuple, config: ConfigDict) -> tuple:
  """Return sharding rules for a state, with the optimizer state in host memory if `offload` is set.

  Args:
    table: sharding rules of the parameters, see `parallel.mesh.shardings`.
    config: the section `optimizer` of the configuration.
  """
  return (('^optimizer', HOST), *table) if config.offload else table


def _schedule(config: ConfigDict, peak: float, steps: int) -> optax.Schedule:
  """Return the learning rate by step; see `make_optimizer`."""
  warmup = config.warmup
  if config.schedule == 'constant':
    after = optax.constant_schedule(peak)
  elif config.schedule == 'cosine':
    after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
  elif config.schedule == 'linear':
    after = optax.linear_schedule(peak, 0.0, max(steps - warmup, 1))
  else:
    raise InputError(
      f"config.optimizer.schedule must be 'constant', 'cosine' or 'linear', got {config.schedule!r}"
    )
  return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def _adamw(config: ConfigDict, steps: int) -> optax.GradientTransformation:
  return optax.adamw(
    _schedule(config, config.learning_rate, steps),
    b1=config.b1,
    b2=config.b2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=lambda params: jax.tree_util.tree_map_with_path(_decays, params),
  )


def _labels(params: dict[str, Array]) -> dict[str, str]:
  """Return which packed parameters Muon updates: the matrices between features inside blocks.

  Input and output layers, modulation, and the embeddings of text and time are not among them.
  """

  return {
    name: 'muon' if name.endswith('.kernel') and not _OUTSIDE.search(name) else 'adamw'
    for name in params
  }


def _matrix(kernel: Array) -> MuonDimensionNumbers:
  """Return the axes of the matrix in a kernel: [..., inputs, outputs] of stacked or linear layers.

  The positions of a convolution [h, w, inputs, outputs] count as inputs.
  """
  inputs = tuple(range(kernel.ndim - 1)) if kernel.ndim > 3 else (kernel.ndim - 2,)
  return MuonDimensionNumbers(inputs, kernel.ndim - 1)


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
