"""The two stages chained, as a pipeline of diffusers: picture, masks, sentences -> video.

    pipe = TTMPipeline.from_pretrained('FOLDER')
    ids = pipe.generate_trajectory(image, prompt, segmentation, generator=generator)
    ids[...]  # A label map uint8 [B, T, H, W]: look at it, edit it.
    frames = pipe(image, prompt, segmentation, trajectory=ids).frames

`pipe(image, prompt, segmentation)` does both. Latents are float32, [B, C, T', H', W'].
"""

import dataclasses
import math
import warnings
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

from ttm_jax.errors import InputError
from ttm_jax.inference.request import Request, fit
from ttm_jax.media.images import to_rgb
from ttm_jax.media.label_images import read_mask_image
from ttm_jax.trajectory import PALETTES, decode, render, token_presence, token_regions

from .conditioning import Condition, Objects, TokenMasks, guided
from .loading import (
  COMPONENTS,
  check_paths,
  check_sums,
  find_folder,
  load_component,
  read_index,
)

STAGE1, STAGE2 = 'stage1', 'stage2'
OUTPUT_TYPES = ('pil', 'np', 'pt', 'latent')

Pictures = Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray]
Generator = torch.Generator | Sequence[torch.Generator] | None


@dataclasses.dataclass
class TTMPipelineOutput(BaseOutput):
  """What the pipeline gives.

  Attributes:
    frames: of B videos, by `output_type`: 'pil', lists of T pictures; 'np', float32 [B, T, H, W, 3]
      in 0..1; 'pt', a tensor [B, T, 3, H, W] in 0..1; 'latent', the latents.
    trajectory: uint8 [B, T, H, W], the objects in every frame.
  """

  frames: list[list[Image.Image]] | np.ndarray | Tensor
  trajectory: np.ndarray


class TTMPipeline(DiffusionPipeline):
  """Image-to-motion, then motion-to-video.

  Attributes:
    segmenter: finds masks where none are given, see `segmentation.Segmenter`; None until it is set.
    stage: the one that is being sampled, for callbacks: 'stage1', 'stage2', or '' outside of both.
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
    """Makes a pipeline of its parts.

    Args:
      stage1, motion_scheduler: image to motion; None where trajectories will be given.
      stage2, scheduler: motion to video.
      codec: of both stages.
      text_encoder: a `TTMTextEncoder`.
      video: frames, height, width and fps of what is generated, and `latents`, its (C, T', H', W').
      stages: of each stage, how the networks were trained and are sampled by default: palette,
        grids (h, w) of the tokens, finest first, cross_mask, steps, visual_scale, text_scale and
        rescale.
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
    self.segmenter: Callable[[np.ndarray, str], tuple[np.ndarray, dict[int, str]]] | None = None
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
    """Loads an exported folder, by the classes of this module: no code of the folder is run.

    Args:
      pretrained_model_name_or_path: the folder, or the id of a repository on the hub.
      torch_dtype: of the networks; float32 by default.
      verify: whether to compare the files with their checksums.
      local_files_only: take nothing from the network, text encoders neither.
      parts: components to take in place of those of the folder, or None to leave stage 1 out.

    Raises:
      InputError: if a file is missing or damaged, or a component is of an unknown class.
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
    """Whether sampling is to stop; set `_interrupt` in a callback."""
    return self._interrupt

  def enable_vae_slicing(self) -> None:
    """Lets the codec take a part of a batch at a time, where it can."""
    _call(self.codec, 'enable_slicing')

  def disable_vae_slicing(self) -> None:
    """Undoes `enable_vae_slicing`."""
    _call(self.codec, 'disable_slicing')

  def enable_vae_tiling(self) -> None:
    """Lets the codec take a tile of a picture at a time, where it can."""
    _call(self.codec, 'enable_tiling')

  def disable_vae_tiling(self) -> None:
    """Undoes `enable_vae_tiling`."""
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
    """Stage 1 alone: where the objects are in every frame.

    The arguments are those of a call of the pipeline.

    Returns:
      uint8 [B, T, H, W]; frame 0 is the segmentation.
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
    """Animates a picture, or several at once, which are then lists.

    Args:
      image: PIL pictures of any mode, which are turned upright as their EXIF data says, or uint8
        [H, W, 3]; resized and cropped to the size of the networks.
      prompt: what the video shows.
      segmentation: label map of the picture: uint8 [H, W], 0 for the background, 1 to 8 for
        objects; or a PIL picture, see `label_images`. Without it the pipeline's `segmenter` looks
        for them.
      motion_prompt: what moves and how; the prompt by default.
      object_prompts: what each object does, by its number.
      trajectory: label maps uint8 [B, T, H, W] or [T, H, W] in place of stage 1.
      num_inference_steps: of each stage; as configured by default.
      visual_scale, text_scale: guidance by the picture and by the text; both 1 is none.
      guidance_rescale: how far guidance is drawn back to the deviation without it, 0 to 1.
      generator: of the noise, one or one a picture. The noise of stage 1 is drawn first, then that
        of stage 2, even if a trajectory is given: a generator of the same seed makes the same video
        of the trajectory that stage 1 made.
      latents, motion_latents: the noise of stage 2 and of stage 1 itself [B, C, T', H', W'].
      output_type: 'pil', 'np', 'pt' or 'latent'.
      return_dict: whether to return a `TTMPipelineOutput` or a tuple of its values.
      callback_on_step_end: called as (pipeline, step, timestep, {'latents': ...}) after each step
        of both stages; may return other latents. `pipeline.stage` tells the stage.
      callback_on_step_end_tensor_inputs: which tensors it is given.

    Raises:
      InputError: for what does not fit together.
    """
    if output_type not in OUTPUT_TYPES:
      raise InputError(f'output_type must be one of {OUTPUT_TYPES}, got {output_type!r}')
    requests = self._requests(image, prompt, segmentation, motion_prompt, object_prompts)
    stages = [STAGE1, STAGE2] if trajectory is None else [STAGE2]
    for stage in stages:  # Before stage 1 is sampled for nothing.
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
      ids = self._given(trajectory, len(requests))
    condition = self._condition(STAGE2, requests, ids)
    generated = self._sample(STAGE2, condition, sampling, noise[STAGE2], told)
    frames = generated if output_type == 'latent' else self._output(generated, output_type)
    self.maybe_free_model_hooks()
    return TTMPipelineOutput(frames, ids) if return_dict else (frames, ids)

  def _requests(self, image, prompt, segmentation, motion_prompt, object_prompts) -> list[Request]:
    """What was given, one a picture, at the size of the networks."""
    images = image if isinstance(image, list | tuple) else [image]
    count = len(images)

    def each(value: Any, name: str) -> list:
      if not isinstance(value, list | tuple):
        return [value] * count
      if len(value) != count:
        raise InputError(f'{name} has {len(value)} entries for {count} pictures: give one each')
      return list(value)

    columns = zip(
      images,
      each(prompt, 'prompt'),
      each(segmentation, 'segmentation'),
      each(motion_prompt, 'motion_prompt'),
      each(object_prompts, 'object_prompts'),
      strict=True,
    )
    size = self.config.video['height'], self.config.video['width']
    requests = []
    for picture, caption, mask, motion, prompts in columns:
      pixels = _rgb(picture)
      if mask is None:
        if self.segmenter is None:
          raise InputError(
            'no segmentation was given: pass the label map of the picture, or set'
            ' pipe.segmenter = Segmenter(detector, sam) to have the objects found'
          )
        mask, found = self.segmenter(pixels, motion or caption)
        prompts = found if prompts is None else prompts
      requests.append(
        Request(pixels, _labels(mask), caption, motion or caption, prompts or {}).fitted(*size)
      )
    return requests

  def _sampling(
    self,
    steps: int | None,
    visual_scale: float | None,
    text_scale: float | None,
    rescale: float | None,
    stages: Sequence[str],
  ) -> dict[str, Any]:
    """How to sample, checked for the stages that will be sampled.

    Raises:
      InputError: a number is out of its range.
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
    return {
      'steps': steps,
      'visual_scale': visual_scale,
      'text_scale': text_scale,
      'rescale': rescale,
    }

  def _scheduler(self, stage: str) -> Any:
    return self.motion_scheduler if stage == STAGE1 else self.scheduler

  def _noise(
    self,
    stages: Sequence[str],
    count: int,
    generator: Generator,
    given: Mapping[str, Tensor | None],
  ) -> dict[str, Tensor]:
    """The noise of each stage [B, C, T', H', W'], as given or drawn, in the order of the stages.

    Raises:
      InputError: given noise is of another shape.
    """
    shape = (count, *self.config.video['latents'])
    found: dict[str, Tensor] = {}
    generator = list(generator) if isinstance(generator, tuple) else generator
    for stage in stages:
      # Drawn even where it is given or not needed, so that the noise of the next stage is the same.
      found[stage] = randn_tensor(
        shape, generator=generator, device=self._execution_device, dtype=torch.float32
      )
      if (noise := given[stage]) is not None:
        if tuple(noise.shape) != shape:
          raise InputError(f'the noise of {stage} must be {list(shape)}, got {list(noise.shape)}')
        found[stage] = noise
    return found

  def _told(self, callback, names) -> Callable[[int, Tensor, Tensor], Tensor]:
    """What to do after a step: (step, timestep, latents) -> latents."""
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

  def _given(self, trajectory: np.ndarray, count: int) -> np.ndarray:
    """A trajectory of the user's at the size of the networks, [B, T, H, W]."""
    ids = np.asarray(trajectory)
    ids = ids[None] if ids.ndim == 3 else ids
    video = self.config.video
    if ids.ndim != 4 or ids.dtype != np.uint8:
      raise InputError(
        f'a trajectory must be uint8 [T, H, W] or [B, T, H, W], got {ids.dtype} {list(ids.shape)}'
      )
    if ids.shape[:2] != (count, video['frames']):
      raise InputError(
        f'the trajectory has {ids.shape[0]} clips of {ids.shape[1]} frames, needed are {count} of'
        f' {video["frames"]}'
      )
    size = video['height'], video['width']
    return np.stack([np.stack([fit(frame, *size, nearest=True) for frame in clip]) for clip in ids])

  def _condition(
    self, stage: str, requests: Sequence[Request], ids: np.ndarray | None
  ) -> Condition:
    """What a stage is told, without what is to be generated."""
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
    repeated = [x.expand(-1, -1, frames, -1, -1) for x in (first, painted)]
    objects = None
    if ids is not None:
      objects = Objects(self._places(ids, settings), texts.objects.prompts)
    condition = Condition(texts.text, torch.cat(repeated, 1), objects)
    return _placed(condition, device)

  def _check_objects(
    self, stage: str, requests: Sequence[Request], ids: np.ndarray | None = None
  ) -> None:
    """Raise InputError where there is an object that a stage does not know."""
    most = self.text_encoder.config.stages[stage]['max_objects']
    highest = max(int(r.mask.max()) for r in requests)
    highest = highest if ids is None else max(highest, int(ids.max()))
    if highest > most:
      raise InputError(
        f'there is an object {highest}, but {stage} knows {most}: number the objects 1 to {most}'
      )

  def _places(self, ids: np.ndarray, settings: Mapping[str, Any]) -> tuple[TokenMasks, ...]:
    """The token masks of label maps [B, T, H, W] on all grids."""
    groups = np.arange(ids.shape[1]) // self.codec.stride[0]
    places = []
    for grid in map(tuple, settings['grids']):
      regions = [token_regions(clip, groups, grid) for clip in ids]
      present = [
        token_presence(clip, groups, grid, settings['cross_mask'], region)
        for clip, region in zip(ids, regions, strict=True)
      ]
      owners = torch.from_numpy(np.stack(regions).astype(np.int32))
      places.append(TokenMasks(1 << owners, torch.from_numpy(np.stack(present).astype(np.int32))))
    return tuple(places)

  def _sample(
    self,
    stage: str,
    condition: Condition,
    sampling: Mapping[str, Any],
    noise: Tensor,
    told: Callable[[int, Tensor, Tensor], Tensor],
  ) -> Tensor:
    """Latents [B, C, T', H', W'] from noise, with two-scale guidance."""
    settings, device = self.config.stages[stage], self._execution_device
    model = getattr(self, stage)
    scheduler = self._scheduler(stage)

    def chosen(name: str) -> Any:
      return settings[name] if sampling[name] is None else sampling[name]

    _set_timesteps(scheduler, chosen('steps'), device)
    scales = [chosen(name) for name in ('visual_scale', 'text_scale', 'rescale')]
    null = _placed(self.text_encoder.null(stage), device)
    predict = guided(model, condition, null, *scales)
    x = noise.to(device, torch.float32) * scheduler.init_noise_sigma
    self.stage = stage
    with self.progress_bar(total=len(scheduler.timesteps)) as bar:
      for step, t in enumerate(scheduler.timesteps):
        if self.interrupt:
          break
        scaled = scheduler.scale_model_input(x, t)
        prediction = predict(scaled, t.float().expand(len(x)))
        x = told(step, t, scheduler.step(prediction, t, x).prev_sample)
        bar.update()
    self.stage = ''
    return x

  def _encode(self, pixels: np.ndarray) -> Tensor:
    """uint8 [B, T, H, W, 3] to latents."""
    video = torch.from_numpy(np.asarray(pixels, np.float32) / 127.5 - 1).permute(0, 4, 1, 2, 3)
    return self.codec.encode(video.to(self._execution_device)).latent_dist.mode().float()

  def _decode(self, latents: Tensor) -> Tensor:
    """Latents to float32 [B, 3, T, H, W] in [-1, 1]."""
    return self.codec.decode(latents, self.config.video['frames']).sample.float()

  def _output(self, latents: Tensor, output_type: str):
    video = self._decode(latents)
    if output_type == 'pil':
      return [[Image.fromarray(frame) for frame in clip] for clip in _uint8(video)]
    video = ((video + 1) / 2).transpose(1, 2)
    return video if output_type == 'pt' else video.permute(0, 1, 3, 4, 2).cpu().numpy()


def _call(codec: Any, method: str) -> None:
  """Codecs without so much to compute have no such options."""
  if hasattr(codec, method):
    getattr(codec, method)()


def _set_timesteps(scheduler: Any, steps: int, device: torch.device | None = None) -> None:
  """Raise InputError where the scheduler cannot take so many steps."""
  try:
    scheduler.set_timesteps(steps, device=device)
  except (ValueError, TypeError, ZeroDivisionError) as error:
    raise InputError(f'num_inference_steps: {error}') from error


def _placed(tree: Any, device: torch.device) -> Any:
  return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)


def _rgb(picture: Image.Image | np.ndarray) -> np.ndarray:
  """Return a picture as uint8 [H, W, 3]; a PIL picture upright, and white where transparent.

  Raises:
    InputError: it is neither that nor a PIL picture.
  """
  if isinstance(picture, Image.Image):
    notes: list[str] = []
    pixels = to_rgb(picture, notes, 'image')
    _warn(notes)
    return pixels
  if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
    raise InputError('image must be a PIL picture or a uint8 array [H, W, 3]')
  if picture.shape[2] != 3:
    raise InputError(
      f'image has {picture.shape[2]} channels; give RGB, or a PIL picture, which is converted'
    )
  return picture


def _labels(mask: Image.Image | np.ndarray) -> np.ndarray:
  """Return a mask as uint8 [H, W]; of a PIL picture see `label_images`.

  Raises:
    InputError: it is neither that nor a PIL picture, or its meaning is ambiguous.
  """
  if isinstance(mask, Image.Image):
    notes: list[str] = []
    mask = read_mask_image(mask, PALETTES['spread8'], 'segmentation', notes)
    _warn(notes)
  if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.ndim != 2:
    raise InputError('segmentation must be a PIL picture or a uint8 array [H, W]')
  return mask


def _warn(notes: Sequence[str]) -> None:
  for note in notes:
    warnings.warn(note, stacklevel=2)


def _uint8(video: Tensor) -> np.ndarray:
  """float [B, 3, T, H, W] in [-1, 1] to uint8 [B, T, H, W, 3]."""
  pixels = video.permute(0, 2, 3, 4, 1).float().cpu().numpy()
  return np.clip(np.round((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
