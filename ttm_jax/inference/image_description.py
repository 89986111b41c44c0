"""Image descriptions: image, mask, prompts and text embeddings in one file.

They allow hosts without PyTorch to use images that were described elsewhere. The format is
safetensors; its metadata contain the texts as JSON:

    picture          uint8 [H, W, 3]
    segmentation     uint8 [H, W], object ids
    text.E.N         float16 [n, N, D], n texts embedded by encoder E with N tokens
    text.E.N.counts  int32 [n], number of tokens of each text that are not padding

`data_tools.describe` writes such files; `ttm_jax.generate --described` reads them. The command of
`ttm_jax.pytorch` reads them too, but embeds the texts itself. This module only depends on NumPy,
Pillow and safetensors.
"""

import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image
from safetensors import SafetensorError

from ttm_jax.atomic import new_file, write_bytes
from ttm_jax.errors import InputError, printable
from ttm_jax.media.label_images import check_size
from ttm_jax.outputs import writing
from ttm_jax.tensor_file import save_tensors
from ttm_jax.trajectory import overlay

PathLike = str | os.PathLike

_KEY, _VERSION = 'ttm_jax.described', 1


@dataclasses.dataclass(frozen=True)
class Embeddings:
  """Precomputed embeddings of some texts; a `data.encode.TextEncoder` for these texts only.

  Attributes:
    name: Name of the encoder.
    model: Hub id or folder of the encoder, as recorded by the dataset.
    rows: Embedding [length, D] and number of tokens that are not padding, by (text, length).
  """

  name: str
  model: str
  rows: Mapping[tuple[str, int], tuple[np.ndarray, int]]

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings [n, length, D] and token counts, int32 [n], of n texts.

    Raises:
      InputError: If a text has no embedding of this length.
    """
    for text in texts:
      if (text, length) not in self.rows:
        raise InputError(
          f'the description of the picture has no embedding of "{text}" by {self.name}, {length}'
          ' tokens long; describe the picture again with this text, for this run'
        )
    found = [self.rows[text, length] for text in texts]
    return np.stack([row for row, _ in found]), np.array([count for _, count in found], np.int32)


@dataclasses.dataclass(frozen=True)
class Described:
  """An image with its segmentation and prompts.

  Attributes:
    picture: uint8 [H, W, 3].
    segmentation: uint8 [H, W], object ids (s0 in the paper).
    caption: Caption of the video (c).
    motion: Motion prompt (c_motion).
    names: Noun phrase of each object, by object id.
    prompts: Object prompts (c_local), by object id.
    texts: Embeddings of these texts, by encoder name.

  Raises:
    InputError: If the sizes of image and segmentation differ.
  """

  picture: np.ndarray
  segmentation: np.ndarray
  caption: str
  motion: str
  names: Mapping[int, str]
  prompts: Mapping[int, str]
  texts: Mapping[str, Embeddings] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    check_size(self.picture, self.segmentation)

  def overlay(self) -> np.ndarray:
    """Return the image overlaid with its objects: uint8 [H, W, 3]."""
    return overlay(self.picture[None], self.segmentation[None])[0]

  def lines(self) -> list[str]:
    """Return the texts as lines to print, with control characters escaped."""
    bare = sorted(set(np.unique(self.segmentation).tolist()) - {0, *self.prompts})
    lines = [
      f'caption: {self.caption}',
      f'motion: {self.motion}',
      *(f'object {i}, {self.names.get(i, "")}: {said}' for i, said in self.prompts.items()),
      *(f'object {i} has no prompt of its own' for i in bare),
    ]
    return [printable(' '.join(line.split())) for line in lines]

  def save_overlay(self, path: PathLike) -> None:
    """Write `overlay` as PNG, atomically.

    Raises:
      InputError: If the file cannot be written.
    """
    file = io.BytesIO()
    Image.fromarray(self.overlay()).save(file, 'PNG')
    with writing(path, 'name another place'):
      write_bytes(path, file.getvalue())

  def but(self, **given: Any) -> 'Described':
    """Return a copy with the given attributes replaced; attributes given as None are kept."""
    return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None})

  def save(self, path: PathLike) -> None:
    """Write the description to a file, atomically.

    Raises:
      InputError: If the file cannot be written.
    """
    tensors: dict[str, np.ndarray] = {
      'picture': self.picture,
      'segmentation': self.segmentation,
    }
    listed: dict[str, dict[str, Any]] = {}
    for name, embeddings in self.texts.items():
      listed[name] = {'model': embeddings.model, 'texts': {}}
      for length in sorted({length for _, length in embeddings.rows}):
        texts = [text for text, n in embeddings.rows if n == length]
        rows, counts = embeddings(texts, length)
        tensors |= {f'text.{name}.{length}': rows, f'text.{name}.{length}.counts': counts}
        listed[name]['texts'][str(length)] = texts
    said = {
      'version': _VERSION,
      'caption': self.caption,
      'motion': self.motion,
      'names': {str(i): name for i, name in self.names.items()},
      'prompts': {str(i): prompt for i, prompt in self.prompts.items()},
      'encoders': listed,
    }
    try:
      with new_file(path) as partial:
        save_tensors(partial, tensors, {_KEY: json.dumps(said)})
    except OSError as error:
      raise InputError(f'cannot write {path} ({error}); name another place') from error

  @classmethod
  def load(cls, path: PathLike) -> 'Described':
    """Read a description from a file.

    Raises:
      InputError: If the file is missing, damaged or not an image description.
    """
    if not Path(path).is_file():
      raise InputError(f'{path}: there is no such file; make it with python -m data_tools.describe')
    try:
      with safetensors.safe_open(path, 'numpy') as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # TypeError and AttributeError: a dtype that NumPy does not support.
    except (OSError, SafetensorError, TypeError, ValueError, AttributeError) as error:
      raise InputError(
        f'{path}: not a complete safetensors file ({error}); copy it again'
      ) from error
    if _KEY not in metadata:
      raise InputError(f'{path}: describes no picture; make one with python -m data_tools.describe')
    try:
      said = json.loads(metadata[_KEY])
      if said['version'] != _VERSION:
        raise ValueError(f'version {said["version"]}, this program reads {_VERSION}')
      return cls(
        picture=_pixels(tensors['picture'], 'picture', (3,)),
        segmentation=_pixels(tensors['segmentation'], 'segmentation', ()),
        caption=_text(said['caption']),
        motion=_text(said['motion']),
        names={int(i): _text(name) for i, name in said['names'].items()},
        prompts={int(i): _text(prompt) for i, prompt in said['prompts'].items()},
        texts={n: _embeddings(n, e, tensors) for n, e in said['encoders'].items()},
      )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
      raise InputError(f'{path}: damaged ({error}); describe the picture again') from error


def _embeddings(name: str, listed: Mapping[str, Any], tensors: Mapping[str, Any]) -> Embeddings:
  """Return the embeddings of one encoder; raise ValueError or KeyError if they are invalid."""
  rows = {}
  for key, texts in listed['texts'].items():
    arrays, counts = (tensors[f'text.{name}.{key}{what}'] for what in ('', '.counts'))
    length = int(key)
    if arrays.ndim != 3 or arrays.shape[1] != length or not arrays.size:
      raise ValueError(f'text.{name}.{key} has the shape {list(arrays.shape)}')
    if arrays.dtype not in (np.float16, np.float32) or not np.isfinite(arrays).all():
      raise ValueError(f'text.{name}.{key} must hold finite floats only')
    if counts.shape != (len(texts),) or counts.dtype != np.int32:
      raise ValueError(f'text.{name}.{key}.counts has the shape {list(counts.shape)}')
    if ((counts < 0) | (counts > length)).any():
      raise ValueError(f'text.{name}.{key} has no {counts.max()} tokens')
    for text, row, count in zip(texts, arrays, counts, strict=True):
      rows[_text(text), length] = row, int(count)
  return Embeddings(name, _text(listed['model']), rows)


def _pixels(array: np.ndarray, name: str, channels: tuple[int, ...]) -> np.ndarray:
  """Return the array; raise ValueError unless it is uint8 [H, W, *channels] with H, W > 0."""
  if array.dtype != np.uint8 or array.ndim < 2 or array.shape[2:] != channels or not array.size:
    raise ValueError(f'{name} is {array.dtype} {list(array.shape)}')
  return array


def _text(value: Any) -> str:
  """Return the value; raise ValueError unless it is a string."""
  if not isinstance(value, str):
    raise ValueError(f'{str(value)[:80]!r} is not a text')
  return value
