"""Save and load a codec as a folder of `codec.json` (configuration) and `codec.safetensors`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import safetensors.numpy

from ttm_jax.atomic import replaced_folder
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.registry import ENTRIES, entry_of
from ttm_jax.errors import InputError, nearest
from ttm_jax.json_file import read_object
from ttm_jax.tensor_file import save_tensors

_CONFIG, _WEIGHTS = 'codec.json', 'codec.safetensors'

# Upper limits for the values in `codec.json`: a codec is built from them before its weights are
# read, so an oversized value must be rejected first.
_LARGEST = 2**24  # Channels, or pixels along a side.
_LAYERS = 64  # Layers of any kind.
_COUNTED = ('res_blocks', 'temporal_downsamples')


def save_codec(path: str | Path, codec: Codec) -> None:
  """Write a codec folder atomically; an existing codec folder is replaced.

  Args:
    path: folder to write.
    codec: codec of a registered kind.

  Raises:
    InputError: `path` exists and is not a codec folder.
    OSError: the weights cannot be written, for example because the disk is full.
    ValueError: the kind of codec is not registered.
  """
  path = Path(path)
  entry = entry_of(codec)
  with contextlib.suppress(FileNotFoundError):  # Another process may be replacing it.
    found = {entry.name for entry in path.iterdir()} if not path.is_file() else {path.name}
    if found and _CONFIG not in found:
      raise InputError(f'{path} exists and is not a codec folder: choose another path')
  with replaced_folder(path) as fresh:
    names, leaves, _ = _flatten(codec)
    save_tensors(fresh / _WEIGHTS, dict(zip(names, leaves, strict=True)))
    description = {'kind': entry.name, 'config': entry.describe(codec)}
    (fresh / _CONFIG).write_text(json.dumps(description, indent=2) + '\n')


def load_codec(path: str | Path) -> Codec:
  """Read a codec folder.

  Args:
    path: folder that `save_codec` has written.

  Raises:
    InputError: a file is missing or corrupt, the kind is unknown, or the tensors do not match the
      configuration. The message names the file and the reason.
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
  except Exception as error:  # Layers raise various exceptions for inconsistent sizes.
    raise InputError(
      f'{path / _CONFIG} is not a configuration of a {name} codec: {error}'
    ) from error
  if min(strides) < 1:
    raise InputError(f'{path / _CONFIG} is not a configuration of a {name} codec: stride {strides}')
  weights = path / _WEIGHTS
  if not weights.is_file():
    raise InputError(f'{weights} is missing: the codec was not copied completely, copy it again')
  try:
    tensors = safetensors.numpy.load_file(weights)
  except Exception as error:  # Safetensors raises various exceptions for corrupt headers.
    raise InputError(f'{weights} is not a complete safetensors file ({error})') from error
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
  """Raise ValueError if a number in a configuration is outside the limits of this module."""
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
  """Return the dotted names, the leaves in the same order, and the tree structure of a codec."""
  leaves, treedef = jax.tree.flatten_with_path(codec)
  names = [jax.tree_util.keystr(path, simple=True, separator='.') for path, _ in leaves]
  names = [name.removesuffix('.value') for name in names]  # The path ends inside an nnx.Variable.
  return names, [leaf for _, leaf in leaves], treedef
