"""The two-stage pipeline: image, masks and prompts -> trajectory -> video.

The interface between the stages is a trajectory, a label map that users can view, edit or replace.
Stage 2 is conditioned on its rendering without noise, as in training (paper, sections 3 and 9).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ttm_jax import optical_flow, trajectory
from ttm_jax.codecs.base import to_float, to_uint8
from ttm_jax.data.context import Context
from ttm_jax.data.encode import TEXT_ENCODERS, TextEncoder, place_arrays, text_arrays
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import Range, ranges
from ttm_jax.inference.request import Request as Request
from ttm_jax.inference.request import fit as fit
from ttm_jax.inference.sampler import PICTURE, RENDERED, Sampler
from ttm_jax.inference.sizes import Size, context_at
from ttm_jax.training import runs
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.placing import place
from ttm_jax.training.random_streams import stream
from ttm_jax.training.sources import Source, of_run, read_all
from ttm_jax.training.students import check_sampling

Arrays = dict[str, np.ndarray]
Seed = int | Sequence[int]

STAGE1, STAGE2 = 'image_to_motion', 'motion_to_video'


class Stage:
  """A trained run, loaded for sampling.

  The parameters are read in the background.

  Attributes:
    context: Codec and encoding of the run's dataset, at the size of this stage.
    denoiser: Network with its process, task and context.
    sampler: Its compiled programs.
  """

  def __init__(
    self,
    run: str | Path,
    task: str | Sequence[str],
    encoders: Mapping[str, TextEncoder] = TEXT_ENCODERS,
    sample: Mapping[str, Any] | None = None,
    steps: int | None = None,
    size: Size | None = None,
    solver: str | None = None,
    mesh: Mesh | None = None,
  ):
    """Load a run.

    Args:
      run: Run directory or URL.
      task: The task, or tasks, that the run must have been trained for.
      encoders: Text encoders by name; they must include those that the run uses.
      sample: Overrides of the configured guidance (visual_scale, text_scale, rescale), and
        savings (see `training.savings`).
      steps: Override of the configured number of sampling steps.
      size: Frames, height and width of the videos; by default those of the run's context.
      solver: Override of the configured solver.
      mesh: Mesh over which parameters and samples are sharded (see `parallel.mesh`); the number
        of requests must be a multiple of its axes data x fsdp. None for one device.

    Raises:
      InputError: If there is no such run, it was trained for another task, a text encoder is
        missing, or the network cannot place this size.
    """
    self._run, config = run, runs.read_config(run)
    tasks = [task] if isinstance(task, str) else list(task)
    if config.task not in tasks:
      raise InputError(f'run {run} was trained for {config.task!r}, {" or ".join(tasks)} is needed')
    check_sampling(run, config, steps, dict(sample or {}), solver)
    config.sample.update(sample or {})
    if steps is not None:
      config.process.steps = steps
    if solver is not None:
      config.process.solver = solver
    self.context = Context.load(run)
    if size is not None:
      self.context = context_at(run, config, self.context, size)
    self.denoiser = Denoiser(config, self.context)
    missing = set(self.context.encoding.encoders) - set(encoders)
    if missing:
      raise InputError(f'run {run} reads text by {sorted(missing)}, which is not available here')
    self._encoders = encoders
    self.sampler = Sampler(self.denoiser, mesh)
    source = of_run(run)
    wanted, found = (
      jax.tree.map(lambda x: x.shape, p) for p in (self.sampler.params, source.params)
    )
    runs.check_same_parameters(wanted, found, run)
    reader = ThreadPoolExecutor(1, 'read')
    self._params = reader.submit(self._read, source)
    reader.shutdown(wait=False)

  def _read(self, source: Source) -> dict[str, Any]:
    """Return the parameters on the devices."""
    if self.sampler.mesh is None:
      return jax.device_put(read_all(source))
    wanted = self.sampler.params
    try:
      params, sums = place(
        source.params,
        jax.tree.map(lambda x: x.sharding, wanted),
        jax.tree.map(lambda x: x.dtype, wanted),
      )
      source.check(sums)
    finally:
      source.close()
    return params

  @property
  def sampling_steps(self) -> int:
    """The number of sampling steps."""
    return self.denoiser.config.process.steps

  @property
  def scale_ranges(self) -> dict[str, Range]:
    """The ranges of the guidance scales that the network takes as inputs; empty if it does not."""
    return ranges(self.denoiser.config.get('distill'))

  def sampled(self, steps: int | None = None, scales: Mapping[str, float] = {}) -> 'Stage':
    """Return this stage with other sampling; both share the parameters and the programs.

    Args:
      steps: Number of sampling steps; None for that of this stage.
      scales: Guidance scales by the names of `scale_ranges`.

    Raises:
      InputError: If it is a student that was made for other steps or scales.
    """
    other, config = copy.copy(self), copy.deepcopy(self.denoiser.config)
    check_sampling(self._run, config, steps, dict(scales))
    if steps is not None:
      config.process.steps = steps
    config.sample.update(scales)
    other.denoiser = Denoiser(config, self.context)
    other.sampler = self.sampler.sharing(other.denoiser)
    return other

  def generate(
    self,
    requests: Sequence[Request],
    seed: Seed,
    ids: np.ndarray | None = None,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate a batch: videos, or rendered trajectories for stage 1.

    Args:
      requests: B requests with images of the size of the run.
      seed: Seed of the noise, or one for each request, whose noise then depends on it alone.
      ids: Trajectories, if the task is conditioned on them: label maps uint8 [B, T, H, W], or
        renderings of flow uint8 [B, T, H, W, 3].
      progress: Function that is called after each sampling step; an error that it raises ends the
        sampling.

    Returns:
      uint8 [B, T, H, W, 3].

    Raises:
      InputError: If a request or trajectory does not fit the run; see `check`.
    """
    batch = self.batch(requests, ids)
    return to_uint8(self.sampler(self._params.result(), batch, self._keys(seed), progress))

  def trajectories(
    self,
    requests: Sequence[Request],
    seed: Seed,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate a batch of trajectories, if this is stage 1; see `generate`.

    Returns:
      Label maps, uint8 [B, T, H, W]; frame 0 is the mask of the request. Of a stage that was
      trained on optical flow, renderings uint8 [B, T, H, W, 3]; frame 0 is without motion.

    Raises:
      InputError: If a request does not fit the run.
    """
    rendered = self.generate(requests, seed, progress=progress)
    encoding = self.context.encoding
    if encoding.trajectory == FLOW:
      rendered = np.array(rendered)
      rendered[:, 0] = optical_flow.render(np.zeros((1, *rendered.shape[2:4], 2)))
      return rendered
    return np.stack(
      [
        trajectory.decode(r, q.mask, encoding.palette)
        for r, q in zip(rendered, requests, strict=True)
      ]
    )

  def compile(self, requests: Sequence[Request]) -> None:
    """Trace the network for requests like these, and begin to compile it in the background.

    Args:
      requests: As many requests as will be generated at a time.

    Raises:
      InputError: If a request does not fit the run.
    """
    self.sampler.compile(self.batch(requests), (len(requests),))

  def wait(self) -> None:
    """Wait until the parameters are read.

    Raises:
      InputError: If the checkpoint is corrupt.
    """
    self._params.result()

  def _keys(self, seed: Seed) -> jax.Array:
    return self.key(seed) if isinstance(seed, int) else jnp.stack([self.key(s) for s in seed])

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

  def batch(self, requests: Sequence[Request], ids: np.ndarray | None = None) -> Arrays:
    """Return the arrays of requests, stacked; see `sampler`."""
    if (mesh := self.sampler.mesh) and len(requests) % (mesh.shape['data'] * mesh.shape['fsdp']):
      raise InputError(
        f'{len(requests)} videos at once do not divide over mesh axes data x fsdp ='
        f' {mesh.shape["data"]} x {mesh.shape["fsdp"]}: take a multiple, or axes sequence and'
        ' tensor'
      )
    arrays = [self._arrays(r, None if ids is None else ids[i]) for i, r in enumerate(requests)]
    return {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}

  def _arrays(self, request: Request, ids: np.ndarray | None) -> Arrays:
    """Return the arrays of one request."""
    self.check(request, ids)
    encoding = self.context.encoding
    if ids is None:
      ids = np.broadcast_to(request.mask, (encoding.frames, *request.mask.shape))
    if encoding.trajectory != FLOW:
      rendered = trajectory.render(ids, encoding.palette)
    else:
      rendered = ids if ids.ndim == 4 else optical_flow.as_trajectory(optical_flow.of_labels(ids))
      ids = np.broadcast_to(request.mask, rendered.shape[:3])
    return {
      PICTURE: to_float(request.picture[None]),
      RENDERED: to_float(rendered),
      **place_arrays(ids, self.context),
      **text_arrays(
        encoding, self._encoders, request.caption, request.motion, dict(request.prompts)
      ),
    }


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

  def compile(self, requests: Sequence[Request]) -> None:
    """Begin to compile both stages, see `Stage.compile`; wait until their parameters are read.

    Raises:
      InputError: If a request does not fit a run, or a checkpoint is corrupt.
    """
    stages = [stage for stage in (self.stage1, self.stage2) if stage is not None]
    for stage in stages:
      stage.compile(requests)
    for stage in stages:
      stage.wait()

  @property
  def encoding(self):
    """The `data.context.Encoding` of stage 2: number of frames, size, frame rate and palette."""
    return self.stage2.context.encoding

  def trajectories(
    self,
    requests: Sequence[Request],
    seed: Seed,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate trajectories with stage 1.

    Args:
      requests: B requests of the size of the run.
      seed: Seed of the noise, or one for each request, whose noise then depends on it alone.
      progress: Function that is called after each sampling step.

    Returns:
      Label maps, uint8 [B, T, H, W]; frame 0 is the mask of the request. Of stages that were
      trained on optical flow, renderings uint8 [B, T, H, W, 3]; frame 0 is without motion.

    Raises:
      InputError: If there is no stage 1, or a request does not fit the run.
    """
    if self.stage1 is None:
      raise InputError('no stage 1 was given, so a trajectory must be (--trajectory)')
    return self.stage1.trajectories(requests, seed, progress)

  def videos(
    self,
    requests: Sequence[Request],
    ids: np.ndarray,
    seed: Seed,
    progress: Callable[[], None] = lambda: None,
  ) -> np.ndarray:
    """Generate videos with stage 2.

    Args:
      requests: B requests of the size of the run.
      ids: Trajectories, as `trajectories` returns them.
      seed: Seed of the noise, or one for each request, whose noise then depends on it alone.
      progress: Function that is called after each sampling step.

    Returns:
      uint8 [B, T, H, W, 3].

    Raises:
      InputError: If a request or trajectory does not fit the run.
    """
    return self.stage2.generate(requests, seed, ids, progress)
