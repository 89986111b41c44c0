"""Distill a trained denoiser, the teacher, into a student that needs few network passes per video.

Two methods, for any backbone and task. The student starts as the teacher and sees the same
conditions, trajectories and prompts included.

- 'guidance' (Meng et al. 2023, arXiv 2210.03142, section 3.1): one pass of the student predicts
  what three passes of the teacher give with classifier-free guidance. The number of steps stays.
- 'dmd', distribution matching (DMD2, Yin et al. 2024, arXiv 2405.14867, without its adversarial
  loss): the student samples in a few steps. A third network, the critic, learns to denoise what the
  student generates. Where teacher and critic disagree about a generated sample with noise added,
  their difference tells in which direction samples become more likely under the teacher and less
  likely under the student.

The teacher's guidance scales are fixed, or inputs of the student and of its critic that are drawn
from ranges anew for each sample (`guidance_inputs`). The teacher takes three passes either way.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import conditioning, guidance_inputs
from ttm_jax.conditioning import Condition
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.models.preset import COMPUTE_FIELDS
from ttm_jax.settings import from_config
from ttm_jax.training.denoising import Denoising, by_time, latent_size
from ttm_jax.training.objective import Arrays, Metrics
from ttm_jax.training.partial import by_name
from ttm_jax.training.runs import check_same_architecture, read_config
from ttm_jax.training.sources import PRETRAINED, Source
from ttm_jax.training.students import CRITIC, STUDENT, TEACHER

Array = jax.Array

GUIDANCE, DMD = 'guidance', 'dmd'
METHODS = (GUIDANCE, DMD)

# Fields of a process that say how to sample and which times to train on, not what is predicted.
_FREE = {'steps', 'emulated_steps', 'schedule', 'solver'}
_FREE |= {'mean', 'shift', 'time_range', 'time_power'}


@dataclasses.dataclass(frozen=True)
class Distill:
  """Settings of a distillation.

  Attributes:
    method: an element of METHODS.
    visual_scale, text_scale, rescale: the teacher's guidance, see `conditioning.guided`.
    visual_range, text_range: lowest and highest scale to draw if the student takes the scales as
      inputs; empty for a scale that is fixed.

  Raises:
    ValueError: if the method is unknown, or a range is not two numbers in order.
  """

  method: str = DMD
  visual_scale: float = 1.0
  text_scale: float = 1.0
  rescale: float = 0.0
  visual_range: tuple[float, ...] = ()
  text_range: tuple[float, ...] = ()

  def __post_init__(self):
    if self.method not in METHODS:
      raise ValueError(f'method must be one of {METHODS}, got {self.method!r}')
    for name in guidance_inputs.RANGES.values():
      given = getattr(self, name)
      if given and not (len(given) == 2 and 0 <= given[0] <= given[1] < math.inf):
        raise ValueError(
          f'{name} must be the lowest and the highest guidance scale, such as (1.0, 10.0), or ()'
          f' for a fixed one; got {given}'
        )

  @property
  def ranges(self) -> dict[str, guidance_inputs.Range]:
    """The ranges of both scales if they are inputs of the student, else empty."""
    return guidance_inputs.ranges(dataclasses.asdict(self))

  @property
  def passes(self) -> int:
    """Network passes of the teacher for one prediction."""
    return 1 if not self.ranges and self.visual_scale == self.text_scale == 1 else 3


class Networks(nnx.Module):
  """The networks of a distillation; the teacher has no guidance scales as inputs."""

  def __init__(self, **networks: nnx.Module):
    for name, network in networks.items():
      setattr(self, name, network)


class Distillation(Denoising):
  """A `Denoising` objective whose network is a student with its teacher and critic (`Networks`).

  The teacher is frozen, and read again from `init_from` when a run resumes.
  """

  def __init__(self, config: ConfigDict, context: Context | None = None):
    """Build the objective; see `Denoising`.

    Raises:
      InputError: also if the student is to sample with guidance or LoRA, or with scales that it is
        not trained for.
    """
    super().__init__(config, context)
    self.settings: Distill = from_config(Distill, config.distill, 'distill')
    if self.lora.rank:
      raise InputError(
        'config.distill trains all parameters of the student: set --config.lora.rank=0'
      )
    sample, allowed = config.sample, self.settings.ranges
    if wrong := guidance_inputs.out_of_range(allowed, sample):
      raise InputError(
        f'config.sample.{wrong}, the range of config.distill: choose a scale that is drawn in'
        ' training'
      )
    scales = (1, 1) if allowed else (sample.visual_scale, sample.text_scale)
    if (*scales, sample.rescale) != (1, 1, 0):
      raise InputError(
        'a student samples without guidance: set config.sample.visual_scale and .text_scale to 1'
        ' and .rescale to 0; config.distill has the guidance of the teacher'
      )

  @property
  def _names(self) -> tuple[str, ...]:
    return (STUDENT, TEACHER, *((CRITIC,) if self.settings.method == DMD else ()))

  @functools.cached_property
  def frozen(self) -> Mapping[str, Any]:
    """The dtype of each parameter of the teacher, by dotted path."""
    model = nnx.eval_shape(lambda: self._build_teacher(0))
    names = by_name(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {f'{TEACHER}.{name}': 'float32' for name in names}

  def _passes(self) -> float:
    """Return the FLOPs of a training step, in forward passes of one network."""
    if self.settings.method == GUIDANCE:
      return 3 + self.settings.passes
    simulated = (self.denoiser.solver.steps - 1) / 2
    return simulated + 3 + self.settings.passes + 1 + 3  # Student, teacher, critic twice.

  def build(self, seed: int) -> Networks:
    """Return all networks with initial parameters; see `Denoising.build`."""
    build = super().build
    return Networks(
      **{
        name: self._build_teacher(seed) if name == TEACHER else build(seed) for name in self._names
      }
    )

  def _build_teacher(self, seed: int) -> nnx.Module:
    """Return the teacher with initial parameters."""
    denoiser = self.denoiser
    if not denoiser.takes_scales:
      return denoiser.build(seed)
    sizes = dataclasses.replace(denoiser.model_config, guidance_inputs=False)
    return denoiser.preset.build(sizes, denoiser.encoders, seed)

  def source(self, init_from: str) -> Source:
    """Return the parameters of the teacher.

    Raises:
      InputError: if it was trained for another task, predicts something else, or is another
        network; see also `Denoising.source`.
    """
    if init_from.startswith(PRETRAINED):
      raise InputError(f'a teacher is a run directory, and config.init_from is {init_from}')
    theirs = read_config(init_from)
    if theirs.task != self.config.task:
      raise InputError(
        f'run {init_from} was trained for {theirs.task!r}; the teacher of a student for'
        f' {self.config.task!r} must have the same task'
      )
    check_same_architecture(
      self.config.model.to_dict(), theirs.model.to_dict(), init_from, COMPUTE_FIELDS
    )
    for name, ours in self.config.process.items():
      if name not in _FREE and theirs.process.get(name, ours) != ours:
        raise InputError(
          f'config.process.{name} is {ours!r}, and the teacher {init_from} was trained with'
          f' {theirs.process[name]!r}: take the same value'
        )
    return super().source(init_from)

  def transfer(self, source: dict, params: dict) -> dict:
    """Return the parameters of all networks with the values of the teacher; inside jit."""
    own = super().transfer
    return {name: own(source, network) for name, network in params.items()}

  def generate(self, model: Any, arrays: Arrays, key: Array) -> tuple[Array, Array]:
    """Sample latents with the student; see `Denoising.generate`."""
    return super().generate(model.student, arrays, key)

  def loss(self, model: Any, arrays: Arrays, key: Array) -> tuple[Array, Metrics]:
    """Return the loss of the method on one batch, and metrics; inside jit."""
    keys = jax.random.split(key, 2)
    target, condition = self.denoiser.known(arrays, keys[0])
    condition = self._with_scales(condition, jax.random.fold_in(key, 2))
    method = self._guidance if self.settings.method == GUIDANCE else self._dmd
    loss, metrics = method(model, target, condition, keys[1])
    return loss, metrics | self._by_shape(jnp.full(len(target), loss), latent_size(target))

  def _with_scales(self, condition: Condition, key: Array) -> Condition:
    """Return a condition with guidance scales drawn for each sample, if they are inputs."""
    if not self.settings.ranges:
      return condition
    low, high = np.array(list(self.settings.ranges.values()), np.float32).T
    shape = conditioning.batch_size(condition), len(low)
    scales = jax.random.uniform(key, shape, minval=low, maxval=high)
    return condition.replace(scales=scales)  # type: ignore[attr-defined]

  def _teacher(self, model: Any, condition: Condition) -> Any:
    """Return the guided prediction of the teacher, a function of (x_t, t).

    The scales are those of the condition if it has any, else those of the configuration.
    """
    guidance = self.settings
    visual: Any = guidance.visual_scale
    text: Any = guidance.text_scale
    if condition.scales is not None:
      visual, text = condition.scales.T[
        ..., None, None, None, None
      ]  # Each for latents [B, T, H, W, C].
      condition = condition.replace(scales=None)  # type: ignore[attr-defined]
    return conditioning.guided(
      self.denoiser.predictor(model.teacher),
      condition,
      self.denoiser.null_text,
      visual,
      text,
      guidance.rescale,
    )

  def _guidance(
    self, model: Any, target: Array, condition: Condition, key: Array
  ) -> tuple[Array, Metrics]:
    """Return the squared error of the student as predictor of the guided teacher."""
    keys = jax.random.split(key, 2)
    process = self.denoiser.process
    t = process.draw_t(keys[0], len(target))
    x_t, _ = process.corrupt(target, jax.random.normal(keys[1], target.shape), t)
    wanted = jax.lax.stop_gradient(self._teacher(model, condition)(x_t, t))
    found = self.denoiser.predictor(model.student)(x_t, t, condition)
    losses = _per_sample(jnp.square(found - wanted), condition)
    return losses.mean(), by_time(losses, t)

  def _dmd(
    self, model: Any, target: Array, condition: Condition, key: Array
  ) -> tuple[Array, Metrics]:
    """Return the loss of student and critic together; each has gradients of its own part only."""
    keys = jax.random.split(key, 3)
    generated = self._generated(model.student, condition, keys[0], target.shape[1:])
    fixed = jax.lax.stop_gradient(generated)
    matching = self._matching(model, generated, condition, keys[1])
    critic = _per_sample(
      jnp.square(self._denoising_error(model.critic, fixed, condition, keys[2])), condition
    )
    count = jnp.float32(len(target))
    metrics = {
      'loss': ((matching + critic).sum(), count),
      'loss_student': (matching.sum(), count),
      'loss_critic': (critic.sum(), count),
    }
    return (matching + critic).mean(), metrics

  def _generated(
    self, student: nnx.Module, condition: Condition, key: Array, shape: tuple[int, ...]
  ) -> Array:
    """Return data that the student predicts at a random one of its sampling steps.

    It starts from noise and takes the steps before without gradients, so that it trains on what it
    meets when it samples ("backward simulation" of DMD2).
    """
    denoiser, (start, drawn) = self.denoiser, jax.random.split(key)
    table = jax.tree.map(jnp.asarray, denoiser.table)
    still = _without_gradients(student)
    chosen = jax.random.randint(drawn, (), 0, denoiser.solver.steps)

    def step(number: Array, state: Any) -> Any:
      row = jax.tree.map(lambda x: x[number], table)
      return denoiser.step(still, condition, state, row)

    state = jax.lax.fori_loop(0, chosen, step, denoiser.begin(condition, start, shape))
    x_t = jax.lax.stop_gradient(state.solver[0])
    t = jnp.full(x_t.shape[:1], table.row.t[chosen])
    prediction = denoiser.predictor(student)(x_t, t, condition)
    data = denoiser.process.data(prediction, x_t, t)
    return conditioning.with_clean_frame(data, condition)

  def _matching(self, model: Any, generated: Array, condition: Condition, key: Array) -> Array:
    """Return a loss [B] whose gradient in the sample is that of distribution matching.

    Its size is the mean distance of the sample from the teacher's prediction, as in DMD2.
    """
    keys, process = jax.random.split(key, 2), self.denoiser.process
    fixed = jax.lax.stop_gradient(generated)
    t = process.draw_t(keys[0], len(fixed))
    x_t, _ = process.corrupt(fixed, jax.random.normal(keys[1], fixed.shape), t)
    real = process.data(self._teacher(model, condition)(x_t, t), x_t, t)
    critic = _without_gradients(model.critic)
    fake = process.data(self.denoiser.predictor(critic)(x_t, t, condition), x_t, t)
    distance = _per_sample(jnp.abs(fixed - real), condition)
    direction = (fake - real) / _spread(distance + _EPSILON, fixed)
    wanted = jax.lax.stop_gradient(fixed - direction)
    return 0.5 * _per_sample(jnp.square(generated - wanted), condition)

  def _denoising_error(
    self, network: nnx.Module, x: Array, condition: Condition, key: Array
  ) -> Array:
    keys, process = jax.random.split(key, 2), self.denoiser.process
    t = process.draw_t(keys[0], len(x))
    x_t, wanted = process.corrupt(x, jax.random.normal(keys[1], x.shape), t)
    return self.denoiser.predictor(network)(x_t, t, condition) - wanted


_EPSILON = 1e-6


def _without_gradients(network: nnx.Module) -> nnx.Module:
  """Return a copy of a network whose parameters are constants to differentiation."""
  graphdef, state = nnx.split(network)
  return nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, state))


def _per_sample(values: Array, condition: Condition) -> Array:
  """Return the mean of each sample, float32 [B], over the frames that are generated."""
  if condition.clean_frame is not None:
    values = values[:, 1:]
  return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _spread(values: Array, like: Array) -> Array:
  """Return values [B] in a shape that broadcasts to that of an array [B, ...]."""
  return values.reshape(-1, *[1] * (like.ndim - 1))
