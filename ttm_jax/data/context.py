"""What a latents dataset has in common, and every run and export carries along.

A folder, on disk or at an address that etils understands (gs://):

    context.json            how the clips were encoded
    null_text.safetensors   the encodings of the empty text, for dropout and guidance
    codec/                  the autoencoder
"""

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath
from safetensors import SafetensorError

from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.data import remote
from ttm_jax.errors import InputError
from ttm_jax.presets import preset
from ttm_jax.text.encoders import Encoder

FOLDER = 'context'


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How clips become latents.

  Attributes:
    preset: whose token grids the places are pooled to.
    frames, height, width: of the clips, in pixels.
    fps: frames per second.
    palette: colours of the rendered trajectory.
    max_objects: L, slots for object prompts.
    encoders: the text encoders by name.
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
  encoders: dict[str, Encoder]
  prefix: str = ''
  models: dict[str, str] = dataclasses.field(default_factory=dict)

  def prefixed(self, text: str) -> str:
    """What pre-trained text encoders are given of a caption or motion prompt."""
    return f'{self.prefix} {text}' if self.prefix and text else text

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> 'Encoding':
    encoders = {name: Encoder(**e) for name, e in values['encoders'].items()}
    return cls(**{**values, 'encoders': encoders})


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

  @property
  def grids(self) -> tuple[tuple[int, int], ...]:
    """Token grids (h, w) of the preset, finest first."""
    return preset(self.encoding.preset).grids(*self.latent_shape[1:3])

  def save(self, directory: epath.PathLike) -> None:
    """Writes the folder `directory/context`; atomic on disk, an existing one is replaced."""
    with remote.kept(directory, FOLDER, last='context.json') as place:
      self._save(place)

  def _save(self, directory: Path) -> None:
    final = directory / FOLDER
    partial = final.with_name(f'.{FOLDER}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    text = json.dumps(dataclasses.asdict(self.encoding), indent=2)
    (partial / 'context.json').write_text(text + '\n')
    arrays = {name: np.ascontiguousarray(array) for name, array in self.null_text.items()}
    try:
      safetensors.numpy.save_file(arrays, partial / 'null_text.safetensors')
      save_codec(partial / 'codec', self.codec)
    except SafetensorError as error:  # What it makes of a disk that is full.
      raise OSError(errno.EIO, str(error), str(partial)) from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)

  @classmethod
  def load(cls, directory: epath.PathLike) -> 'Context':
    """Reads the context of a latents dataset or run.

    Raises:
      InputError: if it is missing or damaged.
    """
    with remote.fetched(directory, FOLDER) as folder:
      encoding = read_encoding(folder.parent, directory)
      try:
        null_text = safetensors.numpy.load_file(folder / 'null_text.safetensors')
      except (OSError, SafetensorError) as error:
        raise _damaged(directory, error) from error
      return cls(encoding, load_codec(folder / 'codec'), null_text)


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
  try:
    return Encoding.from_dict(json.loads(file.read_text()))
  except (OSError, AttributeError, TypeError, KeyError, ValueError) as error:
    raise _damaged(name, error) from error


def _damaged(directory: epath.PathLike, error: Exception) -> InputError:
  return InputError(f'{directory}/{FOLDER} is damaged ({error}); encode the dataset again')
