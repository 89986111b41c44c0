"""What a latents dataset has in common, and every run and export carries along.

A folder, on disk or at an address that etils understands (gs://):

    context.json            how the clips were encoded
    null_text.safetensors   the encodings of the empty text, for dropout and guidance
    codec/                  the autoencoder
"""

import dataclasses
import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath
from safetensors import SafetensorError

from ttm_jax import trajectory
from ttm_jax.atomic import replaced_folder
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.data import storage
from ttm_jax.data.schema import check_size
from ttm_jax.errors import InputError, nearest
from ttm_jax.json_file import read_object
from ttm_jax.presets import PRESETS
from ttm_jax.text.encoders import TextEncoderSpec

FOLDER = 'context'

# Encoders give their names to fields of records and to files.
_IDENTIFIER = re.compile(r'\w[\w.-]{0,99}')
_LARGEST = 2**20  # Of the sizes of text encoders.
_SLOTS = 31  # Sets of objects are bits of an int32.


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How clips become latents.

  Attributes:
    preset: the backbone that the dataset is for.
    frames, height, width: of the clips, in pixels.
    fps: frames per second.
    palette: colours of the rendered trajectory.
    max_objects: L, slots for object prompts.
    encoders: the text encoders by name.
    grids: token grids (h, w) of the network, finest first, for which there are token masks.
    prefix: precedes captions and motion prompts for pre-trained text encoders, as in "FPS-24".
    models: hub id or folder of each pre-trained text encoder, by name.
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

  def __post_init__(self):
    """Raise InputError for values that no dataset can have."""
    for field, kind in (('preset', str), ('palette', str), ('prefix', str), ('models', dict)):
      if not isinstance(getattr(self, field), kind):
        raise InputError(f'"{field}" is {getattr(self, field)!r:.100}, not a {kind.__name__}')
    for field, known in (('preset', PRESETS), ('palette', trajectory.PALETTES)):
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
    """What pre-trained text encoders are given of a caption or motion prompt."""
    return f'{self.prefix} {text}' if self.prefix and text else text

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Encoding':
    """Return the encoding that `dataclasses.asdict` made these values of.

    Raises:
      InputError, AttributeError, KeyError, TypeError: values that no dataset can have.
    """
    encoders = {name: TextEncoderSpec(**e) for name, e in values['encoders'].items()}
    grids = tuple((int(h), int(w)) for h, w in values['grids'])
    return cls(**{**values, 'encoders': encoders, 'grids': grids})


@dataclasses.dataclass(frozen=True)
class Context:
  """Encoding, codec and empty text of one dataset.

  Attributes:
    null_text: arrays as in a record (see `data.batch`), with a leading batch axis of 1.
  """

  encoding: Encoding
  codec: Codec
  null_text: dict[str, np.ndarray]

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    """(T', H', W', C) of an encoded clip."""
    e = self.encoding
    frames = int(self.codec.frame_groups(e.frames)[-1]) + 1
    down, right = self.codec.stride
    return frames, e.height // down, e.width // right, self.codec.channels

  def save(self, directory: epath.PathLike) -> None:
    """Write the folder `directory/context`; atomic on disk, an existing one is replaced.

    Raises:
      OSError: it cannot be written.
    """
    with storage.kept(directory, FOLDER, last='context.json') as place:
      self._save(place)

  def _save(self, directory: Path) -> None:
    with replaced_folder(directory / FOLDER) as partial:
      text = json.dumps(dataclasses.asdict(self.encoding), indent=2)
      (partial / 'context.json').write_text(text + '\n')
      arrays = {name: np.ascontiguousarray(array) for name, array in self.null_text.items()}
      try:
        safetensors.numpy.save_file(arrays, partial / 'null_text.safetensors')
        save_codec(partial / 'codec', self.codec)
      except SafetensorError as error:  # What it makes of a disk that is full.
        raise OSError(errno.EIO, str(error), str(partial)) from error

  @classmethod
  def load(cls, directory: epath.PathLike) -> 'Context':
    """Reads the context of a latents dataset or run.

    Raises:
      InputError: if it is missing or damaged.
    """
    with storage.fetched(directory, FOLDER) as folder:
      encoding = read_encoding(folder.parent, directory)
      try:
        null_text = safetensors.numpy.load_file(folder / 'null_text.safetensors')
        _check_null_text(null_text, encoding)
      except Exception as error:  # Safetensors raises all kinds for damaged headers.
        raise _damaged(directory, error) from error
      codec = load_codec(folder / 'codec')
      _check_codec(codec, encoding, directory)
      return cls(encoding, codec, null_text)


def _check_null_text(arrays: dict[str, np.ndarray], encoding: Encoding) -> None:
  """Raise InputError unless there is an empty text of the right size for each encoder."""
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
  """Raise InputError unless frames of the encoding divide into latents of the codec."""
  down, right = codec.stride
  if encoding.height % down or encoding.width % right:
    raise _damaged(
      directory,
      f'its frames of {encoding.width} x {encoding.height} do not divide into latents of {right} x'
      f' {down} pixels',
    )


def read_encoding(directory: epath.PathLike, name: epath.PathLike | None = None) -> Encoding:
  """How the clips of a latents dataset or run were encoded; reads one small file.

  Args:
    name: of the directory in errors; by default itself.

  Raises:
    InputError: if it is missing or damaged.
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


def _whole(field: str, value: Any, least: int, most: int) -> None:
  if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
    raise InputError(f'"{field}" is {value!r:.100}, not a whole number from {least} to {most}')


def _damaged(directory: epath.PathLike, error: Exception | str) -> InputError:
  return InputError(f'{directory}/{FOLDER} is damaged ({error}); encode the dataset again')
