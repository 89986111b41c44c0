"""Lay out several videos with labels: as a contact sheet image or as a small animation."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ttm_jax.atomic import write_bytes
from ttm_jax.errors import InputError
from ttm_jax.media import animations

PAPER, INK = (255, 255, 255), (40, 42, 48)
GAP = 6
LABEL = 20  # Height of a label in pixels.
FONT_SIZE = 12
CELL = 128  # Pixels; smaller images are enlarged by the integer that comes closest to this height.

Labelled = tuple[str, np.ndarray]


def contact_sheet(rows: Sequence[Labelled], frames: int = 6) -> np.ndarray:
  """Return an image with one row per video: its label, and below it evenly spaced frames.

  Args:
    rows: (label, uint8 [T, H, W, 3] or [H, W, 3]) per video. A video with fewer frames than
      `frames` shows each frame once.
    frames: Number of frames per video, including the first and the last.

  Returns:
    uint8 [H', W', 3], enlarged without smoothing.

  Raises:
    InputError: If there are no rows, or a video has another dtype or shape.
  """
  strips = []
  for label, video in rows:
    video = animations.as_frames(video, label)
    chosen = np.unique(np.linspace(0, len(video) - 1, frames).round().astype(int))
    strips.append(_labelled(label, _beside([_enlarged(video[i]) for i in chosen])))
  if not strips:
    raise InputError('a contact sheet needs at least one video')
  return _framed(_below(strips))


def save_gif(path: str | os.PathLike, panels: Sequence[Labelled], fps: float = 8.0) -> pathlib.Path:
  """Write an animation of panels side by side, each below its label.

  Args:
    path: Output file, ending in .gif (256 colors) or .webp (lossless).
    panels: (label, uint8 [T, H, W, 3] or [H, W, 3]) per panel. Shorter ones repeat their last
      frame.
    fps: Frames per second, above 0.

  Returns:
    `path`.

  Raises:
    InputError: If the suffix is unknown, there are no panels, a panel has another dtype or shape,
      or `fps` is not above 0.
    OSError: If the file cannot be written.
  """
  path = pathlib.Path(path)
  encode = {'.gif': animations.gif, '.webp': animations.webp}.get(path.suffix.lower())
  if encode is None:
    raise InputError(f'{path}: an animation must end in .gif or .webp')
  if not panels:
    raise InputError(f'{path}: an animation needs at least one panel')
  write_bytes(path, encode(animated(panels), fps))
  return path


def animated(panels: Sequence[Labelled]) -> np.ndarray:
  """Return the frames, uint8 [T, H', W', 3], of at least one panel side by side; see `save_gif`."""
  videos = [(label, animations.as_frames(pixels, label)) for label, pixels in panels]
  length = max(len(video) for _, video in videos)
  frames = [
    _framed(
      _beside(
        [_labelled(label, _enlarged(video[min(i, len(video) - 1)])) for label, video in videos]
      )
    )
    for i in range(length)
  ]
  return np.stack(frames)


def _enlarged(picture: np.ndarray) -> np.ndarray:
  factor = max(1, round(CELL / picture.shape[0]))
  return picture.repeat(factor, 0).repeat(factor, 1)


def _labelled(label: str, picture: np.ndarray) -> np.ndarray:
  """Return the image with its label above it; labels that are too wide are shortened."""
  font = ImageFont.load_default(FONT_SIZE)
  strip = Image.new('RGB', (picture.shape[1], LABEL), PAPER)
  draw = ImageDraw.Draw(strip)
  text = label
  while text and draw.textlength(text, font) > picture.shape[1]:
    text = text.removesuffix('...')[:-1].rstrip()
    text = f'{text}...' if text else ''
  draw.text((0, LABEL // 2), text, INK, font, anchor='lm')
  return np.concatenate([np.asarray(strip), picture])


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
  return _joined(parts, axis=1)


def _below(parts: Sequence[np.ndarray]) -> np.ndarray:
  return _joined(parts, axis=0)


def _joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
  """Concatenate images along an axis with gaps; pad smaller ones with the background color."""
  size = max(part.shape[1 - axis] for part in parts)
  padded = []
  for i, part in enumerate(parts):
    margins = [(0, 0)] * 3
    margins[axis] = (GAP if i else 0, 0)
    margins[1 - axis] = (0, size - part.shape[1 - axis])
    padded.append(np.pad(part, margins, constant_values=PAPER[0]))
  return np.concatenate(padded, axis)


def _framed(picture: np.ndarray) -> np.ndarray:
  margin = (GAP, GAP)
  return np.pad(picture, [margin, margin, (0, 0)], constant_values=PAPER[0])
