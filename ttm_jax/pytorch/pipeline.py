"""Both stages as a diffusers pipeline: image, label map and prompts -> trajectory -> video.

    pipe = TTMPipeline.from_pretrained('FOLDER')
    ids = pipe.generate_trajectory(image, prompt, segmentation, generator=generator)
    ids[...]  # A trajectory uint8 [B, T, H, W]: inspect it, edit it.
    frames = pipe(image, prompt, segmentation, trajectory=ids).frames

`pipe(image, prompt, segmentation)` runs both stages. Latents are float32 [B, C, T', H', W'].
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map

from ttm_jax.checksums import COMPONENTS, check_sums
from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import RANGES, out_of_range
from ttm_jax.inference.request import Request
from ttm_jax.trajectory import decode, render, token_presence, token_regions

from .conditioning import (
  CHANGE,
  CLEAN,
  Condition,
  Objects,
  TokenMasks,
  guided,
  predict_frames,
  whole_latents,
  with_clean_frame,
)
from .loading import (
  check_paths,
  find_folder,
  load_component,
  read_index,
)
from .pipeline_arguments import Pictures, Segment, given_trajectory, requests_of

STAGE1, STAGE2 = 'stage1', 'stage2'
OUTPUT_TYPES = ('pil', 'np', 'pt', 'latent')

Generator = torch.Generator | Sequence[torch.Generator] | None


@dataclasses.dataclass
class TTMPipelineOutput(BaseOutput):
  """The output of the pipeline.

  Attributes:
    frames: B videos in the format of `output_type`. 'pil': lists of T PIL images. 'np': float32
      [B, T, H, W, 3] in 0..1. 'pt': float32 tensor [B, T, 3, H, W] in 0..1. 'latent': latents.
    trajectory: uint8 [B, T, H, W], the label map of every frame.
  """

  frames: list[list[Image.Image]] | np.ndarray | Tensor
  trajectory: np.ndarray


class TTMPipeline(DiffusionPipeline):
  """The image-to-motion and motion-to-video stages.

  Attributes:
    segmenter: makes the label map if no segmentation is given, see `segmentation.Segmenter`; None
      until it is set.
    stage: the stage that is being sampled, for callbacks: 'stage1', 'stage2', or '' if none is.
  """

  model_cpu_offload_seq = 'text_encoder->stage1->stage2->codec'
  _optional_components = ['stage1', 'motion_scheduler']  # noqa: RUF012
  _callback_tensor_inputs = ['latents']  # noqa: RUF012

  def __init__(
    self,
    stage1,
    motion_scheduler,
    stage2,
    scheduler,
    codec,
    text_encoder,
    video: Mapping[str, Any] | None = None,
    stages: Mapping[str, Mapping[str, Any]] | None = None,
  ):
    """Build a pipeline from its components.

    Args:
      stage1: image-to-motion network; None if trajectories will always be given.
      motion_scheduler: scheduler of stage 1; None likewise.
      stage2: motion-to-video network.
      scheduler: scheduler of stage 2.
      codec: video codec of both stages, see `codec_base`.
      text_encoder: a `TTMTextEncoder`.
      video: frames, height, width and fps of generated videos, and `latents`, their shape
        (C, T', H', W').
      stages: settings of each stage. From training: palette, grids (h, w) of the tokens, finest
        first, and cross_mask, see `trajectory.token_presence`. Sampling defaults: steps,
        visual_scale, text_scale and rescale. Of students: the method `student`, and the ranges of
        the scales that the network takes as inputs, `scale_ranges`.
    """
    super().__init__()
    self.register_modules(
      stage1=stage1,
      motion_scheduler=motion_scheduler,
      stage2=stage2,
      scheduler=scheduler,
      codec=codec,
      text_encoder=text_encoder,
    )
    self.register_to_config(video=video, stages=stages)
    self.segmenter: Segment | None = None
    self.stage = ''
    self._interrupt = False

  @classmethod
  def from_pretrained(
    cls,
    pretrained_model_name_or_path: str | Path,
    torch_dtype: torch.dtype | None = None,
    verify: bool = True,
    local_files_only: bool = False,
    **parts: Any,
  ) -> 'TTMPipeline':
    """Load an exported folder with the classes of `loading`; no code of the folder is run.

    Args:
      pretrained_model_name_or_path: local folder, or repository id on the Hugging Face Hub.
      torch_dtype: of the networks; float32 by default.
      verify: whether to compare the files with their checksums.
      local_files_only: do not use the network, also not for text encoders.
      parts: components that replace those of the folder; None for both components of stage 1 leaves
        it out.

    Raises:
      InputError: if a file is missing or damaged, or a component has an unknown class.
    """
    folder = find_folder(str(pretrained_model_name_or_path), local_files_only)
    if verify:
      check_sums(folder)
    check_paths(folder)
    index = read_index(folder)
    for name in COMPONENTS:
      if name not in parts:
        parts[name] = load_component(folder, name, index[name][1], torch_dtype)
    made = cls(**parts, video=index['video'], stages=index['stages'])
    made.text_encoder.local_files_only = local_files_only
    made.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
    return made

  @property
  def interrupt(self) -> bool:
    """Whether sampling stops before the next step; a callback may set `_interrupt`."""
    return self._interrupt

  def enable_vae_slicing(self) -> None:
    """Run the codec on one sample at a time, if it supports that, to save memory."""
    _call(self.codec, 'enable_slicing')

  def disable_vae_slicing(self) -> None:
    """Run the codec on whole batches, if it supports slicing."""
    _call(self.codec, 'disable_slicing')

  def enable_vae_tiling(self) -> None:
    """Run the codec on one tile of a video at a time, if it supports that, to save memory."""
    _call(self.codec, 'enable_tiling')

  def disable_vae_tiling(self) -> None:
    """Run the codec on whole videos, if it supports tiling."""
    _call(self.codec, 'disable_tiling')

  @torch.no_grad()
  def generate_trajectory(
    self,
    image: Pictures,
    prompt: str | Sequence[str],
    segmentation: Pictures | None = None,
    motion_prompt: str | Sequence[str] | None = None,
    *,
    num_inference_steps: int | None = None,
    visual_scale: float | None = None,
    text_scale: float | None = None,
    guidance_rescale: float | None = None,
    generator: Generator = None,
    motion_latents: Tensor | None = None,
    callback_on_step_end: Callable[..., dict | None] | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] = ('latents',),
  ) -> np.ndarray:
    """Run stage 1 only: generate the trajectory.

    The arguments are those of `__call__`.

    Returns:
      Label maps uint8 [B, T, H, W]; frame 0 is the segmentation.

    Raises:
      InputError: if the pipeline has no stage 1, or an argument is invalid.
    """
    requests = self._requests(image, prompt, segmentation, motion_prompt, None)
    sampling = self._sampling(
      num_inference_steps, visual_scale, text_scale, guidance_rescale, [STAGE1]
    )
    told = self._told(callback_on_step_end, callback_on_step_end_tensor_inputs)
    self._interrupt = False
    noise = self._noise([STAGE1], len(requests), generator, {STAGE1: motion_latents})
    ids = self._trajectories(requests, sampling, noise[STAGE1], told)
    self.maybe_free_model_hooks()
    return ids

  @torch.no_grad()
  def __call__(
    self,
    image: Pictures,
    prompt: str | Sequence[str],
    segmentation: Pictures | None = None,
    motion_prompt: str | Sequence[str] | None = None,
    object_prompts: Mapping[int, str] | Sequence[Mapping[int, str]] | None = None,
    trajectory: np.ndarray | None = None,
    *,
    num_inference_steps: int | None = None,
    visual_scale: float | None = None,
    text_scale: float | None = None,
    guidance_rescale: float | None = None,
    generator: Generator = None,
    latents: Tensor | None = None,
    motion_latents: Tensor | None = None,
    output_type: str = 'pil',
    return_dict: bool = True,
    callback_on_step_end: Callable[..., dict | None] | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] = ('latents',),
  ) -> Any:
    """Animate one image, or a batch given as lists.

    Args:
      image: PIL image of any mode, rotated as its EXIF data says, or uint8 [H, W, 3]. It is resized
        and cropped to the size of the networks.
      prompt: caption of the video.
      segmentation: label map of the image, uint8 [H, W]: 0 is the background, 1 to 8 are objects.
        Or a PIL image, see `label_images`. If it is None, `segmenter` makes it.
      motion_prompt: what moves and how; defaults to the prompt.
      object_prompts: what each object does, by object number.
      trajectory: label maps uint8 [B, T, H, W] or [T, H, W]; skips stage 1.
      num_inference_steps: of each stage; None for the configured number.
      visual_scale, text_scale: guidance scales of the visual condition and of the text; None for
        the configured ones. With both 1 there is no guidance. A student takes none, or takes them
        as inputs of the network, within the ranges that it was trained for.
      guidance_rescale: strength of guidance rescaling, 0 to 1, see `conditioning.rescaled`; None
        for the configured one.
      generator: random generator of the noise, one for all or one per image. It draws the noise of
        stage 1 first and that of stage 2 second, even if a trajectory is given. So the same seed
        and the trajectory of stage 1 give the same video as both stages in one call.
      latents, motion_latents: noise of stage 2 and of stage 1, float32 [B, C, T', H', W']; replaces
        the noise of the generator.
      output_type: 'pil', 'np', 'pt' or 'latent', see `TTMPipelineOutput`.
      return_dict: whether to return a `TTMPipelineOutput` or a tuple of its values.
      callback_on_step_end: called as (pipeline, step, timestep, {'latents': ...}) after each step
        of both stages. It may return a dict with new latents. `pipeline.stage` is the stage.
      callback_on_step_end_tensor_inputs: names of the tensors passed to it: 'latents' or none.

    Returns:
      The videos and their trajectories: a `TTMPipelineOutput` or (frames, trajectory).

    Raises:
      InputError: if an argument is invalid, or arguments do not match each other.
    """
    if output_type not in OUTPUT_TYPES:
      raise InputError(f'output_type must be one of {OUTPUT_TYPES}, got {output_type!r}')
    requests = self._requests(image, prompt, segmentation, motion_prompt, object_prompts)
    stages = [STAGE1, STAGE2] if trajectory is None else [STAGE2]
    for stage in stages:  # Check stage 2 too before the time for stage 1 is spent.
      self._check_objects(stage, requests)
    sampling = self._sampling(
      num_inference_steps, visual_scale, text_scale, guidance_rescale, stages
    )
    told = self._told(callback_on_step_end, callback_on_step_end_tensor_inputs)
    self._interrupt = False
    given = {STAGE1: motion_latents, STAGE2: latents}
    noise = self._noise([STAGE1, STAGE2], len(requests), generator, given)
    if trajectory is None:
      ids = self._trajectories(requests, sampling, noise[STAGE1], told)
    else:
      ids = given_trajectory(trajectory, len(requests), self.config.video)
    condition = self._condition(STAGE2, requests, ids)
    generated = self._sample(STAGE2, condition, sampling, noise[STAGE2], told)
    frames = generated if output_type == 'latent' else self._output(generated, output_type)
    self.maybe_free_model_hooks()
    return TTMPipelineOutput(frames, ids) if return_dict else (frames, ids)

  def _requests(self, image, prompt, segmentation, motion_prompt, object_prompts) -> list[Request]:
    """Return one request per image, resized and cropped to the size of the networks."""
    size = self.config.video['height'], self.config.video['width']
    return requests_of(
      image, prompt, segmentation, motion_prompt, object_prompts, size, self.segmenter
    )

  def _sampling(
    self,
    steps: int | None,
    visual_scale: float | None,
    text_scale: float | None,
    rescale: float | None,
    stages: Sequence[str],
  ) -> dict[str, Any]:
    """Return the sampling arguments, checked for the stages that will be sampled.

    Raises:
      InputError: if a number is out of range, or a student is to be sampled otherwise than it was
        trained.
    """
    for name, value in (('visual_scale', visual_scale), ('text_scale', text_scale)):
      if value is not None and not math.isfinite(value):
        raise InputError(f'{name} must be a finite number, got {value}')
    if rescale is not None and not 0 <= rescale <= 1:
      raise InputError(f'guidance_rescale must be from 0 to 1, got {rescale}')
    if steps is not None:
      for stage in stages:
        if (scheduler := self._scheduler(stage)) is not None:
          _set_timesteps(scheduler, steps)
    asked = {
      'steps': steps,
      'visual_scale': visual_scale,
      'text_scale': text_scale,
      'rescale': rescale,
    }
    for stage in stages:
      self._check_student(stage, asked)
    return asked

  def _check_student(self, stage: str, asked: Mapping[str, Any]) -> None:
    """Raise InputError if the network of a stage is a student that is to be sampled otherwise."""
    settings = self.config.stages[stage]
    allowed = settings.get('scale_ranges', {})
    if wrong := out_of_range(allowed, asked):
      raise InputError(
        f'{stage} is a student that takes guidance scales as inputs, and {wrong}: choose a scale in'
        ' this range'
      )
    fixed = {'dmd': set(asked), 'guidance': {*asked} - {'steps'}}.get(settings['student'], set())
    others = [
      name for name in sorted(fixed - allowed.keys()) if asked[name] not in (None, settings[name])
    ]
    if others:
      made = f'{settings["steps"]} steps' if 'steps' in fixed else 'any number of steps'
      raise InputError(
        f'{stage} is a student, made for {made}{"" if allowed else " without guidance"}: leave out'
        f' {", ".join(others)}'
      )

  def _scheduler(self, stage: str) -> Any:
    return self.motion_scheduler if stage == STAGE1 else self.scheduler

  def _noise(
    self,
    stages: Sequence[str],
    count: int,
    generator: Generator,
    given: Mapping[str, Tensor | None],
  ) -> dict[str, Tensor]:
    """Return the noise of each stage, float32 [B, C, T', H', W']: given, or drawn in stage order.

    Raises:
      InputError: if given noise has the wrong shape.
    """
    shape = (count, *self.config.video['latents'])
    found: dict[str, Tensor] = {}
    generator = list(generator) if isinstance(generator, tuple) else generator
    for stage in stages:
      # Always draw, even if noise is given or unused, so that the next stage gets the same noise.
      found[stage] = randn_tensor(
        shape, generator=generator, device=self._execution_device, dtype=torch.float32
      )
      if (noise := given[stage]) is not None:
        if tuple(noise.shape) != shape:
          raise InputError(f'the noise of {stage} must be {list(shape)}, got {list(noise.shape)}')
        found[stage] = noise
    return found

  def _told(self, callback, names) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Return the function to call after a step: (step, timestep, latents) -> latents."""
    if unknown := sorted(set(names) - set(self._callback_tensor_inputs)):
      raise InputError(
        f'callback_on_step_end_tensor_inputs may name {self._callback_tensor_inputs}, got {unknown}'
      )

    def after(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
      if callback is None:
        return latents
      given = {'latents': latents} if 'latents' in names else {}
      changed = callback(self, step, timestep, given) or {}
      return changed.get('latents', latents)

    return after

  def _trajectories(self, requests, sampling, noise, told) -> np.ndarray:
    if self.stage1 is None:
      raise InputError('this pipeline has no stage 1: give a trajectory')
    condition = self._condition(STAGE1, requests, None)
    latents = self._sample(STAGE1, condition, sampling, noise, told)
    palette = self.config.stages[STAGE1]['palette']
    painted = _uint8(self._decode(latents))
    return np.stack(
      [decode(rgb, r.mask, palette) for rgb, r in zip(painted, requests, strict=True)]
    )

  def _condition(
    self, stage: str, requests: Sequence[Request], ids: np.ndarray | None
  ) -> Condition:
    """Return the condition of a stage; ids is the trajectory for stage 2, None for stage 1."""
    settings, device = self.config.stages[stage], self._execution_device
    self._check_objects(stage, requests, ids)
    first = self._encode(np.stack([r.picture for r in requests])[:, None])
    if ids is None:
      texts = self.text_encoder(stage, [r.motion for r in requests], [{} for _ in requests])
      masks = np.stack([r.mask for r in requests])[:, None]
    else:
      texts = self.text_encoder(stage, [r.caption for r in requests], [r.prompts for r in requests])
      masks = ids
    painted = self._encode(render(masks, settings['palette']))
    frames = self.config.video['latents'][1]
    start = painted if ids is None else first  # The first frame of the target.
    clean = origin = None
    visual = [first, painted]
    if settings['first_frame'] == CLEAN:
      clean = start
      visual = [first] if ids is None else [painted]
    elif settings['first_frame'] == CHANGE:
      origin = start
    repeated = [x.expand(-1, -1, frames, -1, -1) for x in visual]
    objects = None
    if ids is not None:
      objects = Objects(self._places(ids, settings), texts.objects.prompts)
    condition = Condition(texts.text, torch.cat(repeated, 1), objects, clean, origin=origin)
    return _placed(condition, device)

  def _check_objects(
    self, stage: str, requests: Sequence[Request], ids: np.ndarray | None = None
  ) -> None:
    """Raise InputError if an object number exceeds the objects that a stage supports."""
    most = self.text_encoder.config.stages[stage]['max_objects']
    highest = max(int(r.mask.max()) for r in requests)
    highest = highest if ids is None else max(highest, int(ids.max()))
    if highest > most:
      raise InputError(
        f'there is an object {highest}, but {stage} knows {most}: number the objects 1 to {most}'
      )

  def _places(self, ids: np.ndarray, settings: Mapping[str, Any]) -> tuple[TokenMasks, ...]:
    """Return the token masks of label maps uint8 [B, T, H, W], one entry per token grid."""
    groups = self.codec.frame_groups(ids.shape[1])
    token_masks = []
    for grid in map(tuple, settings['grids']):
      regions = [token_regions(clip, groups, grid) for clip in ids]
      present = [
        token_presence(clip, groups, grid, settings['cross_mask'], region)
        for clip, region in zip(ids, regions, strict=True)
      ]
      owners = torch.from_numpy(np.stack(regions).astype(np.int32))
      token_masks.append(
        TokenMasks(1 << owners, torch.from_numpy(np.stack(present).astype(np.int32)))
      )
    return tuple(token_masks)

  def _sample(
    self,
    stage: str,
    condition: Condition,
    sampling: Mapping[str, Any],
    noise: Tensor,
    told: Callable[[int, Tensor, Tensor], Tensor],
  ) -> Tensor:
    """Sample latents [B, C, T', H', W'] from noise, with two-scale guidance."""
    settings, device = self.config.stages[stage], self._execution_device
    model = getattr(self, stage)
    scheduler = self._scheduler(stage)

    def chosen(name: str) -> Any:
      return settings[name] if sampling[name] is None else sampling[name]

    _set_timesteps(scheduler, chosen('steps'), device)
    scales = [chosen(name) for name in ('visual_scale', 'text_scale', 'rescale')]
    if settings.get('scale_ranges'):  # Inputs of the network, which needs no other pass then.
      given = [scales[: len(RANGES)]] * len(noise)
      inputs = torch.tensor(given, dtype=torch.float32, device=device)
      condition, scales = condition._replace(scales=inputs), [1, 1]
    null = _placed(self.text_encoder.null(stage), device)
    predict = guided(functools.partial(predict_frames, model), condition, null, *scales)
    x = noise.to(device, torch.float32) * scheduler.init_noise_sigma
    self.stage = stage
    with self.progress_bar(total=len(scheduler.timesteps)) as bar:
      for step, t in enumerate(scheduler.timesteps):
        if self.interrupt:
          break
        scaled = scheduler.scale_model_input(x, t)
        prediction = predict(scaled, t.float().expand(len(x)))
        x = with_clean_frame(scheduler.step(prediction, t, x).prev_sample, condition)
        whole = whole_latents(x, condition)  # What a callback decodes to look at.
        if (changed := told(step, t, whole)) is not whole:
          x = changed if condition.origin is None else changed - condition.origin
        bar.update()
    self.stage = ''
    return whole_latents(x, condition)

  def _encode(self, pixels: np.ndarray) -> Tensor:
    """Encode uint8 pixels [B, T, H, W, 3] to float32 latents [B, C, T', H', W']."""
    video = torch.from_numpy(np.asarray(pixels, np.float32) / 127.5 - 1).permute(0, 4, 1, 2, 3)
    return self.codec.encode(video.to(self._execution_device)).latent_dist.mode().float()

  def _decode(self, latents: Tensor) -> Tensor:
    """Decode latents to float32 [B, 3, T, H, W] in [-1, 1]."""
    return self.codec.decode(latents, self.config.video['frames']).sample.float()

  def _output(self, latents: Tensor, output_type: str):
    video = self._decode(latents)
    if output_type == 'pil':
      return [[Image.fromarray(frame) for frame in clip] for clip in _uint8(video)]
    video = ((video + 1) / 2).transpose(1, 2)
    return video if output_type == 'pt' else video.permute(0, 1, 3, 4, 2).cpu().numpy()


def _call(codec: Any, method: str) -> None:
  """Call a method of the codec if it has it: small codecs have neither slicing nor tiling."""
  if hasattr(codec, method):
    getattr(codec, method)()


def _set_timesteps(scheduler: Any, steps: int, device: torch.device | None = None) -> None:
  """Set the number of steps; raise InputError if the scheduler does not support it."""
  try:
    scheduler.set_timesteps(steps, device=device)
  except (ValueError, TypeError, ZeroDivisionError) as error:
    raise InputError(f'num_inference_steps: {error}') from error


def _placed(tree: Any, device: torch.device) -> Any:
  return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)


def _uint8(video: Tensor) -> np.ndarray:
  """Convert float [B, 3, T, H, W] in [-1, 1] to uint8 [B, T, H, W, 3]."""
  pixels = video.permute(0, 2, 3, 4, 1).float().cpu().numpy()
  return np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
