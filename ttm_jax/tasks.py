"""The four things a denoiser can be trained to do.

A task picks, from a batch, the latents to generate and what is known. Everything else (noise,
network, loop, sampler) is the same for all of them. Latents are [B, T', H', W', C]; still pictures
are encoded as one-frame clips and repeated over T'.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from ttm_jax.conditioning import Condition, Objects, Text

Array = jax.Array


@flax.struct.dataclass
class Batch:
  """One batch of encoded samples (x, s, c, c_motion, c_local).

  Attributes:
    trajectory: of the true masks, drawn from its distribution: what stage 1 learns to generate.
    given_trajectory: of the masks that stage 2 is given, which may be damaged as generated ones
      are. The mean, as when generating.
  """

  video: Array
  trajectory: Array
  given_trajectory: Array
  first_frame: Array
  first_mask: Array
  caption: Text
  motion: Text
  objects: Objects


Task = Callable[[Batch], tuple[Array, Condition]]


def text_to_video(batch: Batch) -> tuple[Array, Condition]:
  """Pre-training, and adaptation of open weights."""
  return batch.video, Condition(text=batch.caption)


def image_to_video(batch: Batch) -> tuple[Array, Condition]:
  """The single-stage baseline TI2V (paper, section 4.2)."""
  return batch.video, Condition(text=batch.caption, visual=batch.first_frame)


def image_to_motion(batch: Batch) -> tuple[Array, Condition]:
  """Stage 1 (paper, section 3.2)."""
  visual = jnp.concatenate([batch.first_frame, batch.first_mask], axis=-1)
  return batch.trajectory, Condition(text=batch.motion, visual=visual)


def motion_to_video(batch: Batch) -> tuple[Array, Condition]:
  """Stage 2 (paper, section 3.3)."""
  visual = jnp.concatenate([batch.first_frame, batch.given_trajectory], axis=-1)
  return batch.video, Condition(text=batch.caption, visual=visual, objects=batch.objects)
