"""Open image-to-video models to compare with, and how a clip fits their sizes and lengths.

The values are those of the examples and defaults of diffusers 0.42.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A pretrained image-to-video model of diffusers.

  Attributes:
    weights: id on the Hugging Face hub.
    pipeline: name of the pipeline class in diffusers.
    size: (H, W) of its videos, in pixels.
    multiple: sides are multiples of this; 0 if the model takes no other size than `size`.
    lengths: numbers of frames that the model takes, ascending.
    fps: frames per second of its videos.
    steps: sampling steps.
    guidance: scale of classifier-free guidance.
    guidance_name: argument of the pipeline for it.
    prompted: whether the model reads a caption.
    arguments: further arguments of the pipeline.
    float32: components that compute in float32, whatever the dtype of the others.
  """

  weights: str
  pipeline: str
  size: tuple[int, int]
  multiple: int
  lengths: tuple[int, ...]
  fps: float
  steps: int
  guidance: float
  guidance_name: str = 'guidance_scale'
  prompted: bool = True
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  float32: tuple[str, ...] = ()


BASELINES: Mapping[str, Baseline] = {
  'wan-i2v': Baseline(
    weights='Wan-AI/Wan2.1-I2V-14B-480P-Diffusers',
    pipeline='WanImageToVideoPipeline',
    size=(480, 832),
    multiple=16,
    lengths=tuple(range(5, 82, 4)),
    fps=16,
    steps=50,
    guidance=5.0,
    float32=('vae', 'image_encoder'),
  ),
  'wan22-ti2v-5b': Baseline(
    weights='Wan-AI/Wan2.2-TI2V-5B-Diffusers',
    pipeline='WanImageToVideoPipeline',
    size=(704, 1280),
    multiple=32,
    lengths=tuple(range(5, 122, 4)),
    fps=24,
    steps=50,
    guidance=5.0,
    float32=('vae',),
  ),
  'cogvideox-i2v': Baseline(
    weights='THUDM/CogVideoX-5b-I2V',
    pipeline='CogVideoXImageToVideoPipeline',
    size=(480, 720),
    multiple=0,
    lengths=(49,),
    fps=8,
    steps=50,
    guidance=6.0,
    arguments={'use_dynamic_cfg': True},
  ),
  'svd': Baseline(
    weights='stabilityai/stable-video-diffusion-img2vid-xt',
    pipeline='StableVideoDiffusionPipeline',
    size=(576, 1024),
    multiple=64,
    lengths=(25,),
    fps=7,
    steps=25,
    guidance=3.0,
    guidance_name='max_guidance_scale',
    prompted=False,
    arguments={'fps': 7, 'decode_chunk_size': 8},
  ),
  'i2vgen-xl': Baseline(
    weights='ali-vilab/i2vgen-xl',
    pipeline='I2VGenXLPipeline',
    size=(704, 1280),
    multiple=64,
    lengths=(16,),
    fps=16,
    steps=50,
    guidance=9.0,
    arguments={'target_fps': 16},
  ),
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a model generates the video of a clip.

  The clip and its image fill `box` of the generated frames. Outside of it, the input image is
  continued by mirroring, for models that take one size only. Frame k of the clip is the generated
  frame nearest to its time. If the longest video of the model ends before the clip does, its frames
  are spread evenly over the clip, at a `speed` below 1.

  Attributes:
    clip: (T, H, W) of the clip.
    size: (H, W) that is generated, in pixels.
    frames: number of frames that are generated.
    box: (x0, y0, x1, y1) of the clip in the generated frames, in pixels.
    indices: for each frame of the clip, the number of the generated frame.
    speed: playback speed of the model's video in the clip; 1 if it covers the clip.
  """

  clip: tuple[int, int, int]
  size: tuple[int, int]
  frames: int
  box: tuple[int, int, int, int]
  indices: tuple[int, ...]
  speed: float

  @classmethod
  def of(
    cls,
    model: Baseline,
    clip: tuple[int, int, int],
    fps: float,
    size: tuple[int, int] | None = None,
  ) -> 'Plan':
    """Return the plan for a clip.

    Args:
      model: the model.
      clip: (T, H, W) of the clip.
      fps: frames per second of the clip.
      size: (H, W) to generate; by default the model's area in the aspect ratio of the clip, or the
        model's only size.
    """
    count, height, width = clip
    size = size or _size(model, height, width)
    last = (count - 1) / fps  # Seconds.
    wanted = last * model.fps + 1 - 1e-6
    frames = next((n for n in model.lengths if n >= wanted), model.lengths[-1])
    if frames >= wanted:
      speed = 1.0
      at = np.arange(count) / fps * model.fps
    else:
      speed = (frames - 1) / model.fps / last
      at = np.arange(count) * (frames - 1) / (count - 1)
    indices = np.minimum(np.floor(at + 0.5 + 1e-9).astype(int), frames - 1)
    return cls(clip, size, frames, _box(size, height, width), tuple(indices.tolist()), speed)

  def condition(self, picture: np.ndarray) -> np.ndarray:
    """Return the input image of the model, uint8 [h, w, 3], for a frame of the clip."""
    x0, y0, x1, y1 = self.box
    inner = Image.fromarray(picture).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
    height, width = self.size
    around = ((y0, height - y1), (x0, width - x1), (0, 0))
    return np.pad(np.asarray(inner), around, mode='symmetric')

  def fitted(self, video: np.ndarray) -> np.ndarray:
    """Return the video of the clip, uint8 [T, H, W, 3], from a generated one [frames, h, w, 3]."""
    _, height, width = self.clip
    shown = {
      index: np.asarray(
        Image.fromarray(video[index]).resize((width, height), Image.Resampling.BICUBIC, self.box)
      )
      for index in {*self.indices}
    }
    return np.stack([shown[index] for index in self.indices])


def _size(model: Baseline, height: int, width: int) -> tuple[int, int]:
  if not model.multiple:
    return model.size
  area = math.prod(model.size)
  sides = math.sqrt(area * height / width), math.sqrt(area * width / height)
  rounded = (max(1, round(side / model.multiple)) * model.multiple for side in sides)
  return next(rounded), next(rounded)


def _box(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
  """Return the largest centered box with the aspect ratio of the clip, in whole pixels.

  A difference of less than 5% in aspect ratio, as from rounding to multiples, is stretched.
  """
  h, w = size
  ratio = (w / h) / (width / height)
  if abs(math.log(ratio)) < math.log(1.05):
    return 0, 0, w, h
  inner_h, inner_w = (h, round(h * width / height)) if ratio > 1 else (round(w * height / width), w)
  x0, y0 = (w - inner_w) // 2, (h - inner_h) // 2
  return x0, y0, x0 + inner_w, y0 + inner_h
