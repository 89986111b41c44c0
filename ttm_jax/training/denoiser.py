"""A network with what is needed to train and to sample it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import conditioning
from ttm_jax.conditioning import Condition
from ttm_jax.data.batch import text_condition, to_batch
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import check_heads
from ttm_jax.presets import model_config, preset
from ttm_jax.processes.solver import Row, Solver, State
from ttm_jax.settings import from_config
from ttm_jax.tasks import CONCAT, TASKS
from ttm_jax.training import savings
from ttm_jax.training.savings import Memory, Plan, Savings

Array = jax.Array


@flax.struct.dataclass
class Step:
  """What differs between sampling steps; arrays [steps, ...] of all of them, or of one step.

  Attributes:
    row: numbers of the solver.
    scales: guidance scales of the visual condition and of the text, float32 [2].
    plan: what the step evaluates.
  """

  row: Row
  scales: Any
  plan: Plan


@flax.struct.dataclass
class Sampling:
  """The state of the sampler between two steps.

  Attributes:
    solver: state of the solver; the first array is x_t.
    memory: what `savings` keep; None without savings.
  """

  solver: State
  memory: Memory | None


class Denoiser:
  """A network with its noise process, task and dataset context; shared by training and sampling."""

  def __init__(self, config: ConfigDict, context: Context):
    self.config, self.context = config, context
    self.model_config: Any = model_config(config)  # Checks task and preset.
    self.preset = preset(config.preset)
    self.task = TASKS[config.task]
    self.first_frame = config.get('first_frame', CONCAT)
    self.process: Any = from_config(self.preset.process, config.process, 'process')
    self.encoders = context.encoding.encoders
    self.solver: Solver = self.process.solving()
    self.savings = _savings(config.sample)
    self.takes_scales: bool = getattr(self.model_config, 'guidance_inputs', False)

  @property
  def null_text(self) -> Condition:
    """The condition of the empty text, for B = 1; inside jit, a constant of the program."""
    null: Any = self.context.null_text
    return text_condition(null, list(self.encoders), 'caption')

  def check_mesh(self, sizes: Mapping[str, int]) -> None:
    """Raise InputError if the network cannot be sharded over a mesh.

    Args:
      sizes: size of each mesh axis, by name; 1 where missing.
    """
    check_heads(self.model_config.heads, sizes)
    if sizes.get('sequence', 1) > 1 and not self.preset.splits_tokens:
      raise InputError(
        f'preset {self.config.preset!r} cannot be split over mesh axis sequence: set it to 1'
        ' (--config.mesh.sequence=1 in training), and take fsdp or tensor'
      )

  def build(self, seed: int) -> nnx.Module:
    """Return the network with initial parameters."""
    return self.preset.build(self.model_config, self.encoders, seed)

  def predictor(self, model: nnx.Module):
    """Return the network as the process calls it: (x_t, t in 0..1, condition) -> prediction."""

    def predict(x_t: Array, t: Array, condition: Condition) -> Array:
      return conditioning.predict_frames(model, self.process.network_time, x_t, t, condition)

    return predict

  def known(self, arrays: Mapping[str, Array], key: Array) -> tuple[Array, Condition]:
    """Return the target latents [B, T', H', W', C] of a batch and the task's condition.

    The target is what noise is added to; `conditioning.whole_latents` are what it stands for.

    Args:
      arrays: one batch of a latents dataset.
      key: for drawing the target latents from the codec's posterior.
    """
    batch = to_batch(arrays, list(self.encoders), self.config.data.cross_mask, key)
    return self.task.split(batch, self.first_frame)

  @property
  def table(self) -> Step:
    """What differs between the sampling steps: arrays [steps, ...] on the host."""
    sampling, rows = self.config.sample, self.solver.table
    scales = np.array([sampling.visual_scale, sampling.text_scale], np.float32)
    plan = self.savings.plan(np.asarray(self.solver.rows.t))
    return Step(rows, np.tile(scales, (self.solver.steps, 1)), plan)

  @property
  def guides(self) -> bool:
    """Whether there is guidance by three network passes."""
    sample = self.config.sample
    return not (self.takes_scales or sample.visual_scale == sample.text_scale == 1)

  def begin(self, condition: Condition, key: Array, shape: Sequence[int]) -> Sampling:
    """Return the state of the sampler before its first step; inside jit.

    Args:
      condition: the condition, for B samples.
      key: for the initial noise: one key [] for all, or one for each sample [B].
      shape: (T', H', W', C) of the latents.
    """
    if key.ndim:
      noise = jax.vmap(lambda one: jax.random.normal(one, tuple(shape), jnp.float32))(key)
    else:
      noise = jax.random.normal(key, (conditioning.batch_size(condition), *shape), jnp.float32)
    memory = savings.empty(self.savings, noise) if self.savings != Savings() else None
    return Sampling(self.solver.begin(noise), memory)

  def step(self, model: nnx.Module, condition: Condition, state: Sampling, step: Step) -> Sampling:
    """Take one sampling step with two-scale classifier-free guidance; inside jit.

    Args:
      model: the network.
      condition: the condition, for B samples. If the network takes guidance scales as inputs, and
        the condition has none, they are those of the step.
      state: the state of the sampler.
      step: what differs between the steps, see `table`.
    """
    x_t, memory = state.solver[0], state.memory
    if self.takes_scales and condition.scales is None:
      scales = jnp.broadcast_to(step.scales, (len(x_t), 2))
      condition = condition.replace(scales=scales)  # type: ignore[attr-defined]
    if memory is None:
      prediction = self._plain(model, condition, x_t, step)
    else:
      prediction, memory = self._saving(model, condition, x_t, memory, step)
    return Sampling(self.solver.update(state.solver, prediction, step.row), memory)

  def _plain(self, model: nnx.Module, condition: Condition, x_t: Array, step: Step) -> Array:
    """Return the prediction at x_t, evaluated in full."""
    visual_scale, text_scale = step.scales if self.guides else (1.0, 1.0)
    guided = conditioning.guided(
      self.predictor(model),
      condition,
      self.null_text,
      visual_scale,
      text_scale,
      self.config.sample.rescale,
    )
    return guided(x_t, jnp.full(x_t.shape[:1], step.row.t))

  def _saving(
    self, model: nnx.Module, condition: Condition, x_t: Array, memory: Memory, step: Step
  ) -> tuple[Array, Memory]:
    """Return the prediction at x_t with `savings`, and what is kept for the next steps."""
    t, row, network = jnp.full(x_t.shape[:1], step.row.t), step.row, self.predictor(model)
    rescale = self.config.sample.rescale

    def both() -> tuple[Array, Array]:
      predictions = conditioning.with_and_without_guidance(
        network, condition, self.null_text, *step.scales
      )
      mixed, full = predictions(x_t, t)
      return full, mixed - full

    def one() -> Array:
      return network(x_t, t, condition)

    def evaluate(memory: Memory) -> tuple[Array, Memory]:
      if not self.guides:
        return one(), memory.replace(passes=memory.passes + 1)  # type: ignore[attr-defined]
      full, difference, memory = savings.guide(both, one, memory, step.plan)
      mixed = full + difference
      return conditioning.rescaled(mixed, full, rescale) if rescale else mixed, memory

    if not self.savings.reuse:
      return evaluate(memory)

    def data(memory: Memory) -> tuple[Array, Memory]:
      prediction, memory = evaluate(memory)
      return self.process.data_of(prediction, x_t, row.signal, row.spread), memory

    kept, memory = savings.reuse(data, x_t, memory, step.plan, self.savings.reuse)
    return self.process.prediction_of(kept, x_t, row.signal, row.spread), memory

  def passes(self, state: Sampling) -> int:
    """Return the evaluations of the network that led to the state after the last step."""
    if state.memory is not None:
      return int(state.memory.passes)
    return self.solver.steps * (3 if self.guides else 1)

  def latents(self, condition: Condition, state: Sampling) -> Array:
    """Return the latents [B, T', H', W', C] of the state after the last step; inside jit."""
    return conditioning.whole_latents(state.solver[0], condition)

  def sample(
    self, model: nnx.Module, condition: Condition, key: Array, shape: Sequence[int]
  ) -> Array:
    """Sample latents for a condition by all steps in one program; inside jit.

    Args:
      model: the network.
      condition: the condition, for B samples.
      key: for the initial noise.
      shape: (T', H', W', C) of the latents.

    Returns:
      Latents [B, T', H', W', C].
    """

    def step(state: Sampling, step: Step) -> tuple[Sampling, None]:
      return self.step(model, condition, state, step), None

    state, _ = jax.lax.scan(step, self.begin(condition, key, shape), self.table)
    return self.latents(condition, state)


def _savings(section: ConfigDict) -> Savings:
  """Return the savings of the section `sample` of a configuration; it need not have them.

  Raises:
    InputError: if a value is out of range.
  """
  names = [field.name for field in dataclasses.fields(Savings) if field.name in section]
  return from_config(Savings, ConfigDict({name: section[name] for name in names}), 'sample')
