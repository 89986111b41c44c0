"""The four tasks that a denoiser can be trained for.

A task splits a batch into target latents and condition. Everything else (noise process, network,
training loop, sampler) is the same for all tasks. Latents are float [B, T', H', W', C]. Still
images are encoded as one-frame clips and repeated along T'.
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
  """One batch of encoded samples; (x, s, c, c_motion, c_local) in the paper.

  Attributes:
    video: Latents of the video (x).
    trajectory: Latents of the ground truth label maps (s), sampled from the codec's posterior: the
      target of stage 1.
    given_trajectory: Latents of the label maps that stage 2 is conditioned on. These label maps may
      be augmented with errors like those of generated ones. The latents are the posterior mean, as
      in inference.
    first_frame: Latents of the first frame.
    first_mask: Latents of the first frame's label map.
    caption: The caption (c), by text encoder.
    motion: The motion prompt (c_motion), by text encoder.
    objects: Token masks and object prompts (c_local).
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
  """A training task of a denoiser.

  Attributes:
    name: Name of the task in `config.task`.
    visual_latents: Number of latents that the visual condition concatenates along channels.
    split: Function from a batch to (target latents, condition).
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


# Pretraining, and fine-tuning of open weights.
TEXT_TO_VIDEO = Task('text_to_video', 0, _text_to_video)
# The single-stage TI2V baseline (paper, section 4.2).
IMAGE_TO_VIDEO = Task('image_to_video', 1, _image_to_video)
# Stage 1 (paper, section 3.2).
IMAGE_TO_MOTION = Task('image_to_motion', 2, _image_to_motion)
# Stage 2 (paper, section 3.3).
MOTION_TO_VIDEO = Task('motion_to_video', 2, _motion_to_video)

TASKS: dict[str, Task] = {
  task.name: task for task in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO, IMAGE_TO_MOTION, MOTION_TO_VIDEO)
}
