"""Pictures and animations as bytes of an image file."""

import io

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError


def as_frames(pixels: np.ndarray, name: str) -> np.ndarray:
  """A picture uint8 [H, W, 3] or a video [T, H, W, 3] as [T, H, W, 3].

  Args:
    pixels: the picture or the video.
    name: names it in the error.
  """
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
    raise InputError(
      f'"{name}" must be a uint8 picture [H, W, 3] or video [T, H, W, 3],'
      f' got {pixels.dtype} {pixels.shape}'
    )
  if not pixels.size:
    raise InputError(f'"{name}" has no pixels: its shape is {pixels.shape}')
  return pixels if pixels.ndim == 4 else pixels[None]


def shrunk(frames: np.ndarray, side: int) -> np.ndarray:
  """Frames uint8 [T, H, W, 3] made smaller, smoothly, so that neither side exceeds `side`."""
  images = [Image.fromarray(frame) for frame in frames]
  for image in images:
    image.thumbnail((side, side))
  return np.stack([np.asarray(image) for image in images])


def png(picture: np.ndarray) -> bytes:
  """A PNG file of one picture uint8 [H, W, 3]."""
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG')
  return file.getvalue()


def webp(frames: np.ndarray, fps: float, lossless: bool = True) -> bytes:
  """A WebP file that repeats for ever, or a still one where there is one frame.

  Args:
    frames: uint8 [T, H, W, 3].
    fps: frames per second, above 0.
    lossless: keeps every pixel as it is.
  """
  images = [Image.fromarray(frame) for frame in frames]
  file = io.BytesIO()
  images[0].save(
    file,
    'WEBP',
    save_all=len(images) > 1,
    append_images=images[1:],
    duration=_milliseconds(fps),
    loop=0,
    lossless=lossless,
    quality=80,
  )
  return file.getvalue()


def gif(frames: np.ndarray, fps: float) -> bytes:
  """A GIF file that repeats for ever: one palette of 256 colours for all frames, undithered.

  Args:
    frames: uint8 [T, H, W, 3].
    fps: frames per second, above 0; the format rounds a frame's duration to 10 ms.
  """
  # A palette a frame would make still colours flicker.
  palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(256)
  images = [
    Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
  ]
  file = io.BytesIO()
  images[0].save(
    file, 'GIF', save_all=True, append_images=images[1:], duration=_milliseconds(fps), loop=0
  )
  return file.getvalue()


def _milliseconds(fps: float) -> int:
  if not fps > 0:
    raise InputError(f'frames per second must be above 0, got {fps}')
  return max(1, round(1000 / fps))
