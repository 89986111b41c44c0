"""The four tasks of a denoiser.

A task splits a batch into the latents to generate and the condition. Everything else (noise,
network, loop, sampler) is the same for all tasks. Latents are [B, T', H', W', C]; still images are
encoded as one-frame clips and repeated over T'.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Task:
  """One of the four things a denoiser can be trained to do.

  Attributes:
    name: as in `config.task`.
    visual_latents: how many latents the visual condition stacks along channels.
    split: batch -> latents to generate, and the condition.
  """

  name: str
  visual_latents: int
  split: Callable[[Batch], tuple[Array, Condition]]


def _text_to_video(batch: Batch) -> tuple[Array, Condition]:
  return batch.video, Condition(text=batch.caption)


def _image_to_video(batch: Batch) -> tuple[Array, Condition]:
  return batch.video, Condition(text=batch.caption, visual=batch.first_frame)


def _image_to_motion(batch: Batch) -> tuple[Array, Condition]:
  visual = jnp.concatenate([batch.first_frame, batch.first_mask], axis=-1)
  return batch.trajectory, Condition(text=batch.motion, visual=visual)


def _motion_to_video(batch: Batch) -> tuple[Array, Condition]:
  visual = jnp.concatenate([batch.first_frame, batch.given_trajectory], axis=-1)
  return batch.video, Condition(text=batch.caption, visual=visual, objects=batch.objects)


# Pre-training, and adaptation of open weights.
TEXT_TO_VIDEO = Task('text_to_video', 0, _text_to_video)
# The single-stage baseline TI2V (paper, section 4.2).
IMAGE_TO_VIDEO = Task('image_to_video', 1, _image_to_video)
# Stage 1 (paper, section 3.2).
IMAGE_TO_MOTION = Task('image_to_motion', 2, _image_to_motion)
# Stage 2 (paper, section 3.3).
MOTION_TO_VIDEO = Task('motion_to_video', 2, _motion_to_video)

TASKS: dict[str, Task] = {
  task.name: task for task in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO, IMAGE_TO_MOTION, MOTION_TO_VIDEO)
}
