"""The four tasks that a denoiser can be trained for.

A task splits a batch into target latents and condition. Everything else (noise process, network,
training loop, sampler) is the same for all tasks. Latents are float [B, T', H', W', C]. Still
images are encoded as one-frame clips and repeated along T'.
"""

import dataclasses

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


CONCAT, CLEAN, CHANGE = 'concat', 'clean', 'change'
FIRST_FRAME = (CONCAT, CLEAN, CHANGE)


@dataclasses.dataclass(frozen=True)
class Task:
  """A training task of a denoiser.

  Attributes:
    name: Name of the task in `config.task`.
    target: Name of the target latents in a `Batch`.
    text: Name of the text in a `Batch`.
    visual: Names of the latents that the visual condition concatenates along channels.
    first: Which of `visual` is the first frame of the target; None if the target has no given first
      frame.
    has_objects: Whether the condition has token masks and object prompts.
  """

  name: str
  target: str
  text: str
  visual: tuple[str, ...] = ()
  first: str | None = None
  has_objects: bool = False

  def concatenated(self, first_frame: str) -> tuple[str, ...]:
    """Return the names of the latents that are concatenated along channels.

    Args:
      first_frame: How the first frame of the target is given: CONCAT, as channels (the paper);
        CLEAN, as a latent frame without noise (Wan 2.2 TI2V); or CHANGE, as channels, and
        subtracted from all frames of the target.
    """
    return tuple(name for name in self.visual if first_frame != CLEAN or name != self.first)

  def split(self, batch: Batch, first_frame: str = CONCAT) -> tuple[Array, Condition]:
    """Return the target latents and the condition of a batch.

    With CHANGE, the target is the difference from the first frame; see
    `conditioning.whole_latents`.

    Args:
      batch: A batch of B samples.
      first_frame: See `concatenated`.
    """
    visual = [getattr(batch, name) for name in self.concatenated(first_frame)]
    target, origin = getattr(batch, self.target), None
    if first_frame == CHANGE and self.first is not None:
      origin = getattr(batch, self.first)[:, :1]
      target = target - origin
    # A clip of one latent frame has no clean frame, since that would be all of it.
    clean = first_frame == CLEAN and self.first is not None and target.shape[1] > 1
    condition = Condition(
      text=getattr(batch, self.text),
      visual=jnp.concatenate(visual, axis=-1) if visual else None,
      objects=batch.objects if self.has_objects else None,
      clean_frame=getattr(batch, self.first)[:, :1] if clean and self.first else None,
      origin=origin,
    )
    return target, condition


# Pretraining, and fine-tuning of open weights.
TEXT_TO_VIDEO = Task('text_to_video', 'video', 'caption')
# The single-stage TI2V baseline (paper, section 4.2).
IMAGE_TO_VIDEO = Task(
  'image_to_video', 'video', 'caption', visual=('first_frame',), first='first_frame'
)
# Stage 1 (paper, section 3.2).
IMAGE_TO_MOTION = Task(
  'image_to_motion',
  'trajectory',
  'motion',
  visual=('first_frame', 'first_mask'),
  first='first_mask',
)
# Stage 2 (paper, section 3.3).
MOTION_TO_VIDEO = Task(
  'motion_to_video',
  'video',
  'caption',
  visual=('first_frame', 'given_trajectory'),
  first='first_frame',
  has_objects=True,
)

TASKS: dict[str, Task] = {
  task.name: task for task in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO, IMAGE_TO_MOTION, MOTION_TO_VIDEO)
}
