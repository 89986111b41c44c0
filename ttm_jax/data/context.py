"""Encoding metadata, codec and null text of a latents dataset.

Every run and export carries a copy. The context is a folder, on disk or at a URL that etils
supports (gs://):

    context.json            how the clips were encoded
    shapes.json             of a run on several datasets: the shape of each (see `data.mixture`)
    null_text.safetensors   embeddings of the empty text, for condition dropout and guidance
    codec/                  the autoencoder
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from ttm_jax import trajectory
from ttm_jax.atomic import replaced_folder
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.data import storage
from ttm_jax.data.schema import MASKS, TRAJECTORIES, check_size
from ttm_jax.errors import InputError, nearest
from ttm_jax.json_file import read_object
from ttm_jax.presets import PRESETS
from ttm_jax.tensor_file import save_tensors
from ttm_jax.text.encoders import TextEncoderSpec

FOLDER = 'context'
_SHAPES = 'shapes.json'

# Encoder names become parts of record field names and file names.
_IDENTIFIER = re.compile(r'\w[\w.-]{0,99}')
_LARGEST = 2**20  # Upper bound for the sizes of a text encoder.
_SLOTS = 31  # Object sets are bit masks in an int32; bit 0 is the background.


@dataclasses.dataclass(frozen=True)
class Encoding:
  """The settings by which clips were encoded into latents.

  Attributes:
    preset: name of the preset that the dataset was encoded for.
    frames: frames of a clip.
    height: height of a clip in pixels.
    width: width of a clip in pixels.
    fps: frames per second.
    palette: name of the color palette of rendered trajectories.
    max_objects: L, the number of object prompt slots, 0 to 31.
    encoders: the text encoders by name.
    grids: token grids (h, w) of the network that have token masks, finest first.
    prefix: text prepended to captions and motion prompts for pretrained text encoders, as in
      "FPS-24".
    models: Hugging Face Hub id or folder of each pretrained text encoder, by name.
    trajectory: what is rendered, an element of TRAJECTORIES: the masks of the objects, or optical
      flow (see `ttm_jax.optical_flow`), which has no objects.
  """

  preset: str
  frames: int
  height: int
  width: int
  fps: float
  palette: str
  max_objects: int
  encoders: dict[str, TextEncoderSpec]
  grids: tuple[tuple[int, int], ...]
  prefix: str = ''
  models: dict[str, str] = dataclasses.field(default_factory=dict)
  trajectory: str = MASKS

  def __post_init__(self):
    """Raise InputError if a value has the wrong type or is out of range."""
    texts = ('preset', 'palette', 'prefix', 'trajectory')
    for field, kind in (*((text, str) for text in texts), ('models', dict)):
      if not isinstance(getattr(self, field), kind):
        raise InputError(f'"{field}" is {getattr(self, field)!r:.100}, not a {kind.__name__}')
    for field, known in (
      ('preset', PRESETS),
      ('palette', trajectory.PALETTES),
      ('trajectory', TRAJECTORIES),
    ):
      value = getattr(self, field)
      if value not in known:
        raise InputError(f'unknown {field} {value!r:.100}{nearest(value, known)}')
    for field in ('frames', 'height', 'width'):
      _whole(field, getattr(self, field), 1, 2**32)
    check_size(self.frames, self.height, self.width)
    if not isinstance(self.fps, int | float) or not 0 < self.fps < math.inf:
      raise InputError(f'"fps" is {self.fps!r:.100}, not a positive number')
    _whole('max_objects', self.max_objects, 0, _SLOTS)
    for name, encoder in self.encoders.items():
      if not _IDENTIFIER.fullmatch(name):
        raise InputError(
          f'a text encoder is called {name!r:.200}; use letters, digits, ".", "_" and "-"'
        )
      for field, value in dataclasses.asdict(encoder).items():
        _whole(f'{field} of the encoder {name}', value, 1, _LARGEST)
    if not all(isinstance(text, str) for pair in self.models.items() for text in pair):
      raise InputError('"models" does not hold names of models')

  def prefixed(self, text: str) -> str:
    """Return a caption or motion prompt with `prefix`, as passed to pretrained text encoders.

    The empty text stays empty.
    """
    return f'{self.prefix} {text}' if self.prefix and text else text

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Encoding':
    """Return an encoding from the output of `dataclasses.asdict`.

    Raises:
      InputError: a value has the wrong type or is out of range.
      AttributeError: a value has the wrong type.
      KeyError: a value is missing.
      TypeError: a value is missing, unknown or of the wrong type.
    """
    encoders = {name: TextEncoderSpec(**e) for name, e in values['encoders'].items()}
    grids = tuple((int(h), int(w)) for h, w in values['grids'])
    return cls(**{**values, 'encoders': encoders, 'grids': grids})


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of the clips of one dataset of a mixture.

  Attributes:
    frames: frames of a clip.
    height: height of a clip in pixels.
    width: width of a clip in pixels.
    grids: token grids, see `Encoding`.
    weight: share of the batches that come from the dataset, 0 to 1.
  """

  frames: int
  height: int
  width: int
  grids: tuple[tuple[int, int], ...]
  weight: float = 1.0

  @classmethod
  def of(cls, encoding: Encoding, weight: float = 1.0) -> 'Shape':
    """Return the shape of the clips of an encoding."""
    return cls(encoding.frames, encoding.height, encoding.width, encoding.grids, weight)

  @property
  def size(self) -> tuple[int, int, int]:
    """Frames, height and width."""
    return self.frames, self.height, self.width

  def __str__(self) -> str:
    return f'{self.frames}x{self.height}x{self.width}'


@dataclasses.dataclass(frozen=True)
class Context:
  """Encoding, codec and null text of one dataset, or of several that a run mixes.

  Attributes:
    encoding: the settings by which the clips were encoded.
    codec: the autoencoder.
    null_text: the text arrays of the empty text, named as in a record (see `data.batch`), with a
      leading batch axis of 1.
    mixed: the shapes of the datasets of a mixture, in its order; empty for one dataset. The
      encoding then has one of them, at which videos are sampled by default.
  """

  encoding: Encoding
  codec: Codec
  null_text: dict[str, np.ndarray]
  mixed: tuple[Shape, ...] = ()

  @property
  def shapes(self) -> tuple[Shape, ...]:
    """The shapes of all datasets, at least one."""
    return self.mixed or (Shape.of(self.encoding),)

  def at(self, shape: Shape) -> 'Context':
    """Return the context of one dataset with clips of this shape, otherwise encoded alike.

    Raises:
      InputError: a size is out of range.
    """
    encoding = dataclasses.replace(
      self.encoding,
      frames=shape.frames,
      height=shape.height,
      width=shape.width,
      grids=shape.grids,
    )
    return dataclasses.replace(self, encoding=encoding, mixed=())

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    """The shape (T', H', W', C) of the latents of a clip."""
    e = self.encoding
    frames = int(self.codec.frame_groups(e.frames)[-1]) + 1
    down, right = self.codec.stride
    return frames, e.height // down, e.width // right, self.codec.channels

  def save(self, directory: epath.PathLike) -> None:
    """Write the folder `directory/context`, and replace an existing one. Atomic on local disks.

    Raises:
      OSError: the folder cannot be written.
    """
    with storage.kept(directory, FOLDER, last='context.json') as place:
      self._save(place)

  def _save(self, directory: Path) -> None:
    with replaced_folder(directory / FOLDER) as partial:
      text = json.dumps(dataclasses.asdict(self.encoding), indent=2)
      (partial / 'context.json').write_text(text + '\n')
      if self.mixed:
        shapes = {'shapes': [dataclasses.asdict(shape) for shape in self.mixed]}
        (partial / _SHAPES).write_text(json.dumps(shapes, indent=2) + '\n')
      save_tensors(partial / 'null_text.safetensors', self.null_text)
      save_codec(partial / 'codec', self.codec)

  @classmethod
  def load(cls, directory: epath.PathLike) -> 'Context':
    """Load the context of a latents dataset or run.

    Raises:
      InputError: the context is missing or corrupt.
    """
    with storage.fetched(directory, FOLDER) as folder:
      encoding = read_encoding(folder.parent, directory)
      try:
        null_text = safetensors.numpy.load_file(folder / 'null_text.safetensors')
        _check_null_text(null_text, encoding)
      except Exception as error:  # Safetensors raises many exception types for corrupt headers.
        raise _damaged(directory, error) from error
      codec = load_codec(folder / 'codec')
      context = cls(encoding, codec, null_text, read_mixed(folder.parent, directory))
      for shape in context.shapes:
        try:
          found = context.at(shape).encoding
        except InputError as error:
          raise _damaged(directory, error) from error
        _check_codec(codec, found, directory)
      return context


def _check_null_text(arrays: dict[str, np.ndarray], encoding: Encoding) -> None:
  """Raise InputError unless every encoder has null text arrays of the expected shapes."""
  for name, encoder in encoding.encoders.items():
    for field, shape in (
      ('caption', (1, encoder.length)),
      ('motion', (1, encoder.length)),
      ('prompts', (1, encoding.max_objects, encoder.prompt_length)),
    ):
      for key, wanted in ((field, shape), (f'{field}_length', shape[:-1])):
        found = arrays.get(f'text.{name}.{key}')
        if found is None or found.shape[: len(wanted)] != wanted:
          has = 'missing' if found is None else f'{found.shape}, not {wanted}'
          raise InputError(f'the empty text text.{name}.{key} is {has}')


def _check_codec(codec: Codec, encoding: Encoding, directory: epath.PathLike) -> None:
  """Raise InputError unless the codec can encode clips of the encoding's frames and size."""
  try:
    codec.frame_groups(encoding.frames)
  except InputError as error:
    raise _damaged(directory, error) from error
  down, right = codec.stride
  if encoding.height % down or encoding.width % right:
    raise _damaged(
      directory,
      f'its frames of {encoding.width} x {encoding.height} do not divide into latents of {right} x'
      f' {down} pixels',
    )


def read_encoding(directory: epath.PathLike, name: epath.PathLike | None = None) -> Encoding:
  """Read the encoding of a latents dataset or run. Reads only `context.json`.

  Args:
    directory: the folder that contains `context/`.
    name: the name of the folder in error messages; by default `directory`.

  Raises:
    InputError: the file is missing or corrupt.
  """
  name = directory if name is None else name
  file = epath.Path(directory) / FOLDER / 'context.json'
  if not file.exists():
    raise InputError(
      f'{name} is neither a latents dataset nor a run: {name}/{FOLDER}/context.json is missing'
      ' (make a dataset with `python -m data_tools.encode`)'
    )
  values = read_object(file, 'encode the dataset again')
  try:
    return Encoding.from_dict(values)
  except (InputError, AttributeError, TypeError, KeyError) as error:
    raise _damaged(name, error) from error


def read_mixed(directory: epath.PathLike, name: epath.PathLike | None = None) -> tuple[Shape, ...]:
  """Read the shapes of the mixture that a run was trained on; empty for a single dataset.

  Args:
    directory: the folder that contains `context/`.
    name: the name of the folder in error messages; by default `directory`.

  Raises:
    InputError: the file is corrupt.
  """
  name = directory if name is None else name
  file = epath.Path(directory) / FOLDER / _SHAPES
  if not file.exists():
    return ()
  values = read_object(file, 'take it from a copy of the run')
  try:
    entries = values['shapes']
    shapes = [
      Shape(**{**entry, 'grids': tuple((int(h), int(w)) for h, w in entry['grids'])})
      for entry in entries
    ]
    if not all(0 < shape.weight <= 1 for shape in shapes):
      raise ValueError('a weight is not from 0 to 1')
  except (TypeError, ValueError, KeyError) as error:
    raise _damaged(name, error) from error
  return tuple(shapes)


def _whole(field: str, value: Any, least: int, most: int) -> None:
  if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
    raise InputError(f'"{field}" is {value!r:.100}, not an integer from {least} to {most}')


def _damaged(directory: epath.PathLike, error: Exception | str) -> InputError:
  return InputError(f'{directory}/{FOLDER} is damaged ({error}); encode the dataset again')
