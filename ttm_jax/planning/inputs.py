"""Derive the input shapes of a run from its preset and configuration, without a dataset."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TextEncoder, null_text, place_arrays, text_arrays
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError
from ttm_jax.presets import model_config, preset
from ttm_jax.text.encoders import WORDS, TextEncoderSpec

Shapes = dict[str, jax.ShapeDtypeStruct]
Size = tuple[int, int, int]


def clip_size(text: str) -> Size:
  """Parse a clip size such as '128x256x256' into (frames, height, width).

  Raises:
    InputError: the text has another form.
  """
  parts = text.split('x')
  if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
    raise InputError(f'--clip must be FRAMESxHEIGHTxWIDTH, such as 128x256x256, got {text!r}')
  frames, height, width = (int(part) for part in parts)
  return frames, height, width


def typical_context(config: ConfigDict, clip: Size | None = None) -> Context:
  """Return the context of a dataset as in the paper, with a codec of shapes instead of weights.

  Args:
    config: the configuration of the run.
    clip: (frames, height, width) in pixels; by default the largest clip that the network accepts.

  Raises:
    InputError: the codec or the network does not accept the clip.
  """
  chosen = preset(config.preset)
  typical = chosen.typical
  model = model_config(config)
  codec = nnx.eval_shape(lambda: typical.codec(model))
  if clip is None:
    t, h, w = typical.latents(model)
    clip = codec.num_frames(t), h * codec.stride[0], w * codec.stride[1]
  codec.frame_groups(clip[0])  # Raises InputError if the codec cannot encode this many frames.
  encoding = Encoding(
    preset=config.preset,
    frames=clip[0],
    height=clip[1],
    width=clip[2],
    fps=typical.fps,
    palette='spread8',
    max_objects=MAX_OBJECTS,
    encoders=dict(typical.encoders),
    grids=chosen.grids(model, clip[1] // codec.stride[0], clip[2] // codec.stride[1]),
  )
  return Context(encoding, codec, null_text(encoding, _blank(encoding)))


def record(context: Context, stochastic: bool = True) -> Shapes:
  """Return the shapes of the arrays of one record (see `data.batch`), without a batch axis.

  Args:
    context: see `typical_context`.
    stochastic: whether the codec returns log-variances.
  """
  encoding = context.encoding
  latents = context.latent_shape
  still = (1, *latents[1:])
  arrays = {
    name: jax.ShapeDtypeStruct(shape, np.float16)
    for name, shape in (
      ('video', latents),
      ('trajectory', latents),
      ('first_frame', still),
      ('first_mask', still),
    )
  }
  if stochastic:
    arrays |= {f'{name}_logvar': arrays[name] for name in ('video', 'trajectory')}
  ids = np.zeros((encoding.frames, encoding.height, encoding.width), np.uint8)
  rest = place_arrays(ids, context) | text_arrays(encoding, _blank(encoding), '', '', {1: ''})
  return arrays | {
    name: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype) for name, x in rest.items()
  }


def batch(of_one: Shapes, size: int, sharding: jax.sharding.Sharding) -> Shapes:
  """Return the shapes of a batch of `size` records with a sharding."""
  return {
    name: jax.ShapeDtypeStruct((size, *x.shape), x.dtype, sharding=sharding)
    for name, x in of_one.items()
  }


def tokens(context: Context) -> int:
  """Return the number of tokens of one clip on the finest grid."""
  return context.latent_shape[0] * math.prod(context.encoding.grids[0])


def _blank(encoding: Encoding) -> dict[str, TextEncoder]:
  """Return text encoders that return zeros of the right shapes."""

  def blank(name: str, encoder: TextEncoderSpec) -> TextEncoder:
    shape, dtype = ((), np.int32) if name == WORDS else ((encoder.dim,), np.float16)

    def encode(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
      return np.zeros((len(texts), length, *shape), dtype), np.zeros(len(texts), np.int32)

    return encode

  return {name: blank(name, encoder) for name, encoder in encoding.encoders.items()}
