"""A network with what is needed to train and to sample it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import conditioning
from ttm_jax.conditioning import Condition
from ttm_jax.data.batch import text_condition, to_batch
from ttm_jax.data.context import Context
from ttm_jax.presets import model_config, preset
from ttm_jax.settings import from_config
from ttm_jax.tasks import CONCAT, TASKS
from ttm_jax.training.objective import Arrays

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
    self.null_text = text_condition(
      {name: jnp.asarray(array) for name, array in context.null_text.items()},
      list(self.encoders),
      'caption',
    )

  def build(self, seed: int) -> nnx.Module:
    """Return the network with initial parameters."""
    return self.preset.build(self.model_config, self.encoders, seed)

  def predictor(self, model: nnx.Module):
    """Return the network as the process calls it: (x_t, t in 0..1, condition) -> prediction."""

    def predict(x_t: Array, t: Array, condition: Condition) -> Array:
      return conditioning.predict_frames(model, self.process.network_time, x_t, t, condition)

    return predict

  def known(self, arrays: Arrays, key: Array) -> tuple[Array, Condition]:
    """Return the target latents [B, T', H', W', C] of a batch and the task's condition.

    Args:
      arrays: one batch of a latents dataset.
      key: for drawing the target latents from the codec's posterior.
    """
    batch = to_batch(arrays, list(self.encoders), self.config.data.cross_mask, key)
    return self.task.split(batch, self.first_frame)

  def sample(
    self,
    model: nnx.Module,
    condition: Condition,
    key: Array,
    shape: Sequence[int],
    after_step: Callable[[], None] = lambda: None,
  ) -> Array:
    """Sample latents for a condition with two-scale classifier-free guidance; inside jit.

    Args:
      model: the network.
      condition: the condition, for B samples.
      key: for the initial noise.
      shape: (T', H', W', C) of the latents.
      after_step: called while tracing, after each evaluation of the network; inserts a host
        callback, for example for progress.

    Returns:
      Latents [B, T', H', W', C].
    """
    sampling = self.config.sample
    noise = jax.random.normal(key, (conditioning.batch_size(condition), *shape), jnp.float32)
    guided = conditioning.guided(
      self.predictor(model),
      condition,
      self.null_text,
      sampling.visual_scale,
      sampling.text_scale,
      sampling.rescale,
    )

    def predict(x_t: Array, t: Array) -> Array:
      prediction = guided(x_t, t)
      after_step()
      return prediction

    return conditioning.with_clean_frame(self.process.sample(predict, noise), condition)
