"""What a latents dataset has in common, and every run and export carries along.

A folder:

    context.json            how the clips were encoded
    null_text.safetensors   the encodings of the empty text, for dropout and guidance
    codec/                  the autoencoder
"""

import dataclasses
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
from ttm_jax.data.remote import fetched
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
  """

  preset: str
  frames: int
  height: int
  width: int
  fps: float
  palette: str
  max_objects: int
  encoders: dict[str, Encoder]

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

  def save(self, directory: str | Path) -> None:
    """Writes the folder `directory/context`; atomic, an existing one is replaced."""
    final = Path(directory) / FOLDER
    partial = final.with_name(f'.{FOLDER}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    text = json.dumps(dataclasses.asdict(self.encoding), indent=2)
    (partial / 'context.json').write_text(text + '\n')
    arrays = {name: np.ascontiguousarray(array) for name, array in self.null_text.items()}
    safetensors.numpy.save_file(arrays, partial / 'null_text.safetensors')
    save_codec(partial / 'codec', self.codec)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)

  @classmethod
  def load(cls, directory: epath.PathLike) -> 'Context':
    """Reads the context of a latents dataset or run.

    Raises:
      InputError: if it is missing or damaged.
    """
    address = f'{directory}/{FOLDER}'
    with fetched(directory, FOLDER) as folder:
      if not (folder / 'context.json').exists():
        raise InputError(
          f'{directory} is neither a latents dataset nor a run: {address}/context.json is missing'
          ' (make a dataset with `python -m data_tools.encode`)'
        )
      try:
        encoding = Encoding.from_dict(json.loads((folder / 'context.json').read_text()))
        null_text = safetensors.numpy.load_file(folder / 'null_text.safetensors')
      except (OSError, AttributeError, TypeError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f'{address} is damaged ({error}); encode the dataset again') from error
      return cls(encoding, load_codec(folder / 'codec'), null_text)
