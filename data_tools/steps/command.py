"""Shared parts of the commands that run a single step: flags, and reading an image or video."""

import argparse
from pathlib import Path

import numpy as np

from data_tools.drafts import Draft
from ttm_jax.media import video_reader
from ttm_jax.media.images import read_image
from ttm_jax.pytorch.annotation.flags import add_device_flags

_PICTURES = ('.png', '.jpg', '.jpeg', '.webp', '.avif', '.bmp', '.tif', '.tiff')


def parser(step: str, description: str | None, batch: int = 8) -> argparse.ArgumentParser:
  """Return a parser with the flags of a model.

  Args:
    step: name of the module.
    description: text above the flags.
    batch: default batch size.
  """
  made = argparse.ArgumentParser(
    f'python -m data_tools.steps.{step}',
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--model', required=True, help='folder, or id on the Hugging Face hub')
  add_device_flags(made, '--batch', batch)
  return made


def still(path: str | None = None, **known: object) -> Draft:
  """Return a draft of one file; an image is a video of one frame.

  Args:
    path: image or video file; None gives one gray pixel, for steps that only read texts.
    **known: further fields of the draft.

  Raises:
    InputError: if the file cannot be read.
  """
  if path is None:
    video, fps = np.full((1, 1, 1, 3), 128, np.uint8), 1.0
  elif Path(path).suffix.lower() in _PICTURES:
    video, fps = read_image(path)[None], 1.0
  else:
    video, fps = video_reader.read_video(path)
  return Draft(key=str(path or ''), video=video, fps=fps, **known)  # type: ignore[arg-type]
