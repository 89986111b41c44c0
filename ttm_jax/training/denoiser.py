"""A network with what is needed to train and to sample it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import conditioning
from ttm_jax.conditioning import Condition
from ttm_jax.data.batch import text_condition, to_batch
from ttm_jax.data.context import Context
from ttm_jax.presets import model_config, preset
from ttm_jax.processes.solver import Solver, State
from ttm_jax.settings import from_config
from ttm_jax.tasks import CONCAT, TASKS

Array = jax.Array


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

  @property
  def null_text(self) -> Condition:
    """The condition of the empty text, for B = 1; inside jit, a constant of the program."""
    null: Any = self.context.null_text
    return text_condition(null, list(self.encoders), 'caption')

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

    Args:
      arrays: one batch of a latents dataset.
      key: for drawing the target latents from the codec's posterior.
    """
    batch = to_batch(arrays, list(self.encoders), self.config.data.cross_mask, key)
    return self.task.split(batch, self.first_frame)

  @property
  def rows(self) -> Any:
    """What differs between the sampling steps: a pytree of float32 arrays [steps, ...].

    One step takes one row: time, numbers of the solver, and the two guidance scales.
    """
    sampling, (times, numbers) = self.config.sample, self.solver.rows
    scales = np.array([sampling.visual_scale, sampling.text_scale], np.float32)
    return times, numbers, np.tile(scales, (len(times), 1))

  def begin(self, condition: Condition, key: Array, shape: Sequence[int]) -> State:
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
    return self.solver.begin(noise)

  def step(self, model: nnx.Module, condition: Condition, state: State, row: Any) -> State:
    """Take one sampling step with two-scale classifier-free guidance; inside jit.

    Args:
      model: the network.
      condition: the condition, for B samples.
      state: the state of the sampler.
      row: what differs between the steps, see `rows`.
    """
    (t, numbers, (visual_scale, text_scale)), sampling = row, self.config.sample
    if sampling.visual_scale == sampling.text_scale == 1:
      visual_scale = text_scale = 1.0
    predict = conditioning.guided(
      self.predictor(model),
      condition,
      self.null_text,
      visual_scale,
      text_scale,
      sampling.rescale,
    )
    x_t = state[0]
    return self.solver.update(state, predict(x_t, jnp.full(x_t.shape[:1], t)), numbers)

  def latents(self, condition: Condition, state: State) -> Array:
    """Return the latents [B, T', H', W', C] of the state after the last step; inside jit."""
    return conditioning.with_clean_frame(state[0], condition)

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

    def step(state: State, row: Any) -> tuple[State, None]:
      return self.step(model, condition, state, row), None

    state, _ = jax.lax.scan(step, self.begin(condition, key, shape), self.rows)
    return self.latents(condition, state)
