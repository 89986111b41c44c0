"""Make small latents datasets of different shapes, which can be mixed."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import tiny
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, EncodedClips, null_text
from ttm_jax.data.latents import write_latents
from ttm_jax.data.schema import Clip
from ttm_jax.scenes.generator import SceneConfig, scene
from ttm_jax.text.encoders import TextEncoderSpec

# Frames, height and width: videos, wider and longer ones, images.
SQUARE, WIDE, IMAGES = (4, 16, 16), (6, 16, 24), (1, 16, 16)
GRID = (3, 4, 6)  # Latents (T', H', W') that hold all of them.


def clips(size: tuple[int, int, int], count: int, fps: float = tiny.FPS) -> Iterator[Clip]:
  """Yield scenes of (frames, height, width)."""
  frames, *sides = size
  config = SceneConfig(size=(sides[0], sides[1]), frames=max(frames, 4), fps=fps)
  for number in range(count):
    clip = scene(config, number)
    yield dataclasses.replace(clip, video=clip.video[:frames], ids=clip.ids[:frames])


@functools.cache
def codec() -> LinearCodec:
  """Return the codec of all datasets."""
  return LinearCodec.fit((clip.video for clip in clips(SQUARE, 8)), (2, 4, 4), tiny.CHANNELS)


def dataset(
  folder: Path,
  size: tuple[int, int, int],
  train: int = 8,
  validation: int = 0,
  coded: Codec | None = None,
  **changes,
) -> str:
  """Write a latents dataset and return its path.

  Args:
    folder: its folder.
    size: frames, height and width of its clips.
    train, validation: records of the splits; a split of 0 is left out.
    coded: the codec; by default `codec()`.
    **changes: fields of the encoding.
  """
  coded = coded or codec()
  frames, height, width = size
  fields = {
    'preset': 'dit',
    'fps': tiny.FPS,
    'palette': 'spread8',
    'max_objects': 3,
    'encoders': {'words': TextEncoderSpec(16, 16, 8)},
    'grids': ((height // 8, width // 8),),
  }
  encoding = Encoding(frames=frames, height=height, width=width, **fields | changes)
  context = Context(encoding, coded, null_text(encoding, TEXT_ENCODERS))
  counts = {'train': train, 'validation': validation}
  splits = {
    split: EncodedClips(list(clips(size, count, encoding.fps)), context)
    for split, count in counts.items()
    if count
  }
  write_latents(folder, context, splits)
  return str(folder)
