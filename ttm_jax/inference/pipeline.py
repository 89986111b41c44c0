"""The two-stage pipeline: image, masks and prompts -> trajectory -> video.

The interface between the stages is a trajectory, a label map that users can view, edit or replace.
Stage 2 is conditioned on its rendering without noise, as in training (paper, sections 3 and 9).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax import optical_flow, trajectory
from ttm_jax.codecs.base import to_uint8
from ttm_jax.data.context import FLOW, Context
from ttm_jax.data.encode import TEXT_ENCODERS, LatentEncoder, TextEncoder, place_arrays, text_arrays
from ttm_jax.errors import InputError
from ttm_jax.inference.request import Request as Request
from ttm_jax.inference.request import fit as fit
from ttm_jax.inference.sizes import Size, context_at
from ttm_jax.training import runs
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.objective import stream
from ttm_jax.training.sources import read_parameters

Arrays = dict[str, np.ndarray]

STAGE1, STAGE2 = 'image_to_motion', 'motion_to_video'


class Stage:
  """A trained run, loaded for sampling.

  Attributes:
    context: Codec and encoding of the run's dataset, at the size of this stage.
    denoiser: Network with its process, task and context.
  """

  def __init__(
    self,
    run: str | Path,
    task: str | Sequence[str],
    encoders: Mapping[str, TextEncoder] = TEXT_ENCODERS,
    sample: Mapping[str, float] | None = None,
    steps: int | None = None,
    size: Size | None = None,
  ):
    """Load a run.

    Args:
      run: Run directory or URL.
      task: The task, or tasks, that the run must have been trained for.
      encoders: Text encoders by name; they must include those that the run uses.
      sample: Overrides of the configured guidance (visual_scale, text_scale, rescale).
      steps: Override of the configured number of sampling steps.
      size: Frames, height and width of the videos; by default those of the run's context.

    Raises:
      InputError: If there is no such run, it was trained for another task, a text encoder is
        missing, or the network cannot place this size.
    """
    config = runs.read_config(run)
    tasks = [task] if isinstance(task, str) else list(task)
    if config.task not in tasks:
      raise InputError(f'run {run} was trained for {config.task!r}, {" or ".join(tasks)} is needed')
    config.sample.update(sample or {})
    if steps is not None:
      config.process.steps = steps
    self.context = Context.load(run)
    if size is not None:
      self.context = context_at(run, config, self.context, size)
    self.denoiser = Denoiser(config, self.context)
    missing = set(self.context.encoding.encoders) - set(encoders)
    if missing:
      raise InputError(f'run {run} reads text by {sorted(missing)}, which is not available here')
    self._encoders = encoders
    abstract = nnx.eval_shape(lambda: self.denoiser.build(0))
    self._graphdef = nnx.graphdef(abstract)
    self._params = jax.device_put(read_parameters(run))
    wanted = jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))
    runs.check_same_parameters(wanted, jax.tree.map(lambda x: x.shape, self._params), run)
    self._latents = LatentEncoder(self.context.codec, self.context.encoding.palette)
    self._sample = jax.jit(self._sample_and_decode)
    self._progress: Callable[[], None] = lambda: None

  @property
  def sampling_steps(self) -> int:
    """The number of sampling steps."""
    return self.denoiser.config.process.steps

  def with_steps(self, steps: int) -> 'Stage':
    """Return this stage with another number of sampling steps; both share the parameters."""
    other, config = copy.copy(self), copy.deepcopy(self.denoiser.config)
    config.process.steps = steps
    other.denoiser = Denoiser(config, self.context)
    other._sample = jax.jit(other._sample_and_decode)
    return other

  def generate(
    self,
    requests: Sequence[Request],
    seed: int,
    ids: np.ndarray | None = None,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate a batch: videos, or rendered trajectories for stage 1.

    Args:
      requests: B requests with images of the size of the run.
      seed: Seed of the noise.
      ids: Trajectories, if the task is conditioned on them: label maps uint8 [B, T, H, W], or
        renderings of flow uint8 [B, T, H, W, 3].
      progress: Function that is called after each sampling step; an error that it raises ends the
        sampling with a `jax.errors.JaxRuntimeError`.

    Returns:
      uint8 [B, T, H, W, 3].

    Raises:
      InputError: If a request or trajectory does not fit the run; see `check`.
    """
    arrays = [self._arrays(r, None if ids is None else ids[i]) for i, r in enumerate(requests)]
    batch = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
    self._progress = progress
    video = self._sample(self._params, self.context.codec, batch, self.key(seed))
    jax.effects_barrier()
    return to_uint8(video)

  def key(self, seed: int) -> jax.Array:
    """Return the random key of this stage's noise; stages of different tasks get independent noise.

    The task name is folded into the key. With a shared key, a video would be sampled from the noise
    of its trajectory, while in training the two are independent.
    """
    return stream(jax.random.key(seed), self.denoiser.config.task, 0)

  def check(self, request: Request, ids: np.ndarray | None = None) -> None:
    """Check that a request fits the run.

    Args:
      request: The request.
      ids: Its trajectory, uint8 [T, H, W], or [T, H, W, 3] of flow, or None.

    Raises:
      InputError: If the size, the number of frames or an object id does not fit.
    """
    e = self.context.encoding
    if request.mask.shape != (e.height, e.width):
      raise InputError(
        f'this run takes pictures of {e.width} x {e.height} pixels, got'
        f' {request.mask.shape[1]} x {request.mask.shape[0]}'
      )
    is_flow = ids is not None and ids.ndim == 4 and e.trajectory == FLOW
    if ids is not None and ids.shape != (e.frames, e.height, e.width) + (3,) * is_flow:
      raise InputError(
        f'the trajectory has {ids.shape[0]} frames of {ids.shape[2]} x {ids.shape[1]},'
        f' this run takes {e.frames} of {e.width} x {e.height}'
      )
    if e.trajectory == FLOW:
      return
    highest = int(request.mask.max() if ids is None else max(request.mask.max(), ids.max()))
    if highest > e.max_objects:
      raise InputError(
        f'there is an object {highest}, but this run knows {e.max_objects}: number the objects 1'
        f' to {e.max_objects}'
      )

  def _arrays(self, request: Request, ids: np.ndarray | None) -> Arrays:
    """Return the arrays of a record (see `data.batch`) of one request; generated latents are 0."""
    self.check(request, ids)
    encoding = self.context.encoding
    if ids is None:
      ids = np.broadcast_to(request.mask, (encoding.frames, *request.mask.shape))
    if encoding.trajectory != FLOW:
      rendered = trajectory.render(ids, encoding.palette)
    else:
      rendered = ids if ids.ndim == 4 else optical_flow.as_trajectory(optical_flow.of_labels(ids))
      ids = np.broadcast_to(request.mask, rendered.shape[:3])
    zeros = np.zeros(self.context.latent_shape, np.float32)
    return {
      'video': zeros,
      'trajectory': np.asarray(self._latents(rendered[None]).mean[0]),
      'first_frame': np.asarray(self._latents(request.picture[None, None]).mean[0]),
      'first_mask': np.asarray(self._latents(rendered[None, :1]).mean[0]),
      **place_arrays(ids, self.context),
      **text_arrays(
        encoding, self._encoders, request.caption, request.motion, dict(request.prompts)
      ),
    }

  def _sample_and_decode(self, params, codec, batch, key):
    model = nnx.merge(self._graphdef, params)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    _, condition = self.denoiser.known(batch, key)
    latents = self.denoiser.sample(
      model,
      condition,
      key,
      self.context.latent_shape,
      lambda: jax.debug.callback(lambda: self._progress()),
    )
    return codec.decode(latents, self.context.encoding.frames)


class Pipeline:
  """Stage 1 and stage 2, chained.

  Attributes:
    stage1: Image-to-motion stage; None if all trajectories are given.
    stage2: Motion-to-video stage.
  """

  def __init__(self, stage1: Stage | None, stage2: Stage):
    """Raise InputError if the stages differ in frames, height, width, fps or kind of trajectory."""
    self.stage1, self.stage2 = stage1, stage2
    if stage1 is not None:
      a, b = stage1.context.encoding, stage2.context.encoding
      for field in ('frames', 'height', 'width', 'fps', 'trajectory'):
        if getattr(a, field) != getattr(b, field):
          raise InputError(
            f'the stages differ in {field}: {getattr(a, field)} in stage 1,'
            f' {getattr(b, field)} in stage 2; train both on one dataset'
          )

  @property
  def encoding(self):
    """The `data.context.Encoding` of stage 2: number of frames, size, frame rate and palette."""
    return self.stage2.context.encoding

  def trajectories(
    self, requests: Sequence[Request], seed: int, progress: Callable[[], None] = lambda: None
  ) -> np.ndarray:
    """Generate trajectories with stage 1.

    Args:
      requests: B requests of the size of the run.
      seed: Seed of the noise.
      progress: Function that is called after each sampling step.

    Returns:
      Label maps, uint8 [B, T, H, W]; frame 0 is the mask of the request. Of stages that were
      trained on optical flow, renderings uint8 [B, T, H, W, 3]; frame 0 is without motion.

    Raises:
      InputError: If there is no stage 1, or a request does not fit the run.
    """
    if self.stage1 is None:
      raise InputError('no stage 1 was given, so a trajectory must be (--trajectory)')
    rendered = self.stage1.generate(requests, seed, progress=progress)
    if self.stage1.context.encoding.trajectory == FLOW:
      rendered = np.array(rendered)
      rendered[:, 0] = optical_flow.render(np.zeros((1, *rendered.shape[2:4], 2)))
      return rendered
    palette = self.stage1.context.encoding.palette
    return np.stack(
      [trajectory.decode(r, q.mask, palette) for r, q in zip(rendered, requests, strict=True)]
    )

  def videos(
    self,
    requests: Sequence[Request],
    ids: np.ndarray,
    seed: int,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate videos with stage 2.

    Args:
      requests: B requests of the size of the run.
      ids: Trajectories, as `trajectories` returns them.
      seed: Seed of the noise.
      progress: Function that is called after each sampling step.

    Returns:
      uint8 [B, T, H, W, 3].

    Raises:
      InputError: If a request or trajectory does not fit the run.
    """
    return self.stage2.generate(requests, seed, ids, progress)
