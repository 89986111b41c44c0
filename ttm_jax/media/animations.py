"""Encode images and animations as PNG, WebP and GIF bytes."""

import io

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError


def as_frames(pixels: np.ndarray, name: str) -> np.ndarray:
  """Return an image or a video as frames.

  Args:
    pixels: uint8 [H, W, 3] or [T, H, W, 3].
    name: Name of the input, for the error message.

  Returns:
    uint8 [T, H, W, 3], where T = 1 for an image.

  Raises:
    InputError: If the dtype or shape is different, or there are no pixels.
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
  """Downscale frames, uint8 [T, H, W, 3], with filtering until no side exceeds `side` pixels.

  Smaller frames are unchanged; the aspect ratio is kept.
  """
  images = [Image.fromarray(frame) for frame in frames]
  for image in images:
    image.thumbnail((side, side))
  return np.stack([np.asarray(image) for image in images])


def png(picture: np.ndarray) -> bytes:
  """Encode one image, uint8 [H, W, 3], as PNG."""
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG')
  return file.getvalue()


def webp(frames: np.ndarray, fps: float, lossless: bool = True) -> bytes:
  """Encode frames as a WebP animation that loops forever, or as a still image if T = 1.

  Args:
    frames: uint8 [T, H, W, 3].
    fps: Frames per second, above 0.
    lossless: Whether to keep all pixel values exactly.

  Raises:
    InputError: If `fps` is not above 0.
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
  """Encode frames as a GIF that loops forever, with one 256-color palette and no dithering.

  Args:
    frames: uint8 [T, H, W, 3].
    fps: Frames per second, above 0; the format rounds a frame's duration to 10 ms.

  Raises:
    InputError: If `fps` is not above 0.
  """
  # One palette per frame would make constant colors flicker.
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
