"""A codec as a folder: `codec.json` says what it is, `codec.safetensors` holds its weights."""

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ttm_jax.atomic import replaced_folder
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.registry import ENTRIES, entry_of
from ttm_jax.errors import InputError, nearest
from ttm_jax.json_file import read_object

_CONFIG, _WEIGHTS = 'codec.json', 'codec.safetensors'

# What a description may ask for: a codec is laid out before its weights are looked at.
_LARGEST = 2**24  # Of channels, and of pixels along a side.
_LAYERS = 64  # Of any kind.
_COUNTED = ('res_blocks', 'temporal_downsamples')


def save_codec(path: str | Path, codec: Codec) -> None:
  """Writes a codec folder: all of it or nothing; a codec that was there is replaced.

  Raises:
    InputError: if something else than a codec is at `path`.
  """
  path = Path(path)
  entry = entry_of(codec)
  with contextlib.suppress(FileNotFoundError):  # Another process may be replacing it.
    found = {entry.name for entry in path.iterdir()} if not path.is_file() else {path.name}
    if found and _CONFIG not in found:
      raise InputError(f'{path} exists and is no codec folder: choose another path')
  with replaced_folder(path) as fresh:
    names, leaves, _ = _flatten(codec)
    # Safetensors writes the memory as it lies: a transposed view would come back wrong.
    arrays = [np.ascontiguousarray(leaf).reshape(leaf.shape) for leaf in leaves]
    try:
      safetensors.numpy.save_file(dict(zip(names, arrays, strict=True)), fresh / _WEIGHTS)
    except SafetensorError as error:  # What it makes of a disk that is full.
      raise OSError(errno.EIO, str(error), str(path)) from error
    description = {'kind': entry.name, 'config': entry.describe(codec)}
    (fresh / _CONFIG).write_text(json.dumps(description, indent=2) + '\n')


def load_codec(path: str | Path) -> Codec:
  """Reads a codec folder.

  Raises:
    InputError: naming the file and what is wrong with it: missing, broken, of an unknown kind, or
      with tensors that are not those of its configuration.
  """
  path = Path(path)
  if not (path / _CONFIG).is_file():
    raise InputError(f'no codec at {path}: there is no {_CONFIG}; fit or train a codec first')
  description = read_object(path / _CONFIG, 'copy or train the codec again')
  name = description.get('kind')
  if not isinstance(name, str) or name not in ENTRIES:
    raise InputError(
      f'{path / _CONFIG}: unknown kind of codec {name!r}{nearest(str(name), ENTRIES)};'
      f' known are {", ".join(ENTRIES)}'
    )
  try:
    _check_sizes(description['config'])
    abstract = ENTRIES[name].abstract(description['config'])
    strides = abstract.stride
  except Exception as error:  # Of the layers, whatever they make of sizes that do not fit.
    raise InputError(f'{path / _CONFIG} is no configuration of a {name} codec: {error}') from error
  if min(strides) < 1:
    raise InputError(f'{path / _CONFIG} is no configuration of a {name} codec: stride {strides}')
  weights = path / _WEIGHTS
  if not weights.is_file():
    raise InputError(f'{weights} is missing: the codec was not copied whole, copy it again')
  try:
    tensors = safetensors.numpy.load_file(weights)
  except Exception as error:  # Safetensors raises all kinds for damaged headers.
    raise InputError(f'{weights} is not a whole safetensors file ({error})') from error
  names, leaves, treedef = _flatten(abstract)
  for key, leaf in zip(names, leaves, strict=True):
    if key not in tensors:
      raise InputError(f'{weights} lacks the tensor {key}, which {_CONFIG} beside it asks for')
    found = tensors[key]
    if found.shape != leaf.shape or found.dtype != leaf.dtype:
      raise InputError(
        f'{weights}: tensor {key} is {found.dtype} {found.shape}, but {_CONFIG} beside it asks for'
        f' {leaf.dtype} {leaf.shape}'
      )
  if unknown := sorted(set(tensors) - set(names)):
    raise InputError(f'{weights}: tensor {unknown[0]} has no place in the codec of {_CONFIG}')
  return jax.tree.unflatten(treedef, [jnp.asarray(tensors[key]) for key in names])


def _check_sizes(config: Any) -> None:
  """Raise ValueError unless all numbers of a configuration are such as a codec may have."""
  if not isinstance(config, dict):
    raise ValueError('"config" is not an object')
  for field, value in config.items():
    values = value if isinstance(value, list) else [value]
    if len(values) > _LAYERS:
      raise ValueError(f'"{field}" has {len(values)} values, but at most {_LAYERS} are read')
    most = _LAYERS if field in _COUNTED else _LARGEST
    for number in values:
      if isinstance(number, dict | list):
        raise ValueError(f'"{field}" holds a {type(number).__name__}')
      if isinstance(number, int) and not 0 <= number <= most:
        raise ValueError(f'"{field}" is {number!r:.50}, but may be 0 to {most}')


def _flatten(codec: Any) -> tuple[list[str], list[Any], Any]:
  """The leaves of a codec in order, with a dotted name each, and the structure around them."""
  leaves, treedef = jax.tree.flatten_with_path(codec)
  names = [jax.tree_util.keystr(path, simple=True, separator='.') for path, _ in leaves]
  names = [name.removesuffix('.value') for name in names]  # The inside of an nnx.Variable.
  return names, [leaf for _, leaf in leaves], treedef
