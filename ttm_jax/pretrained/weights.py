"""Folders of open weights as diffusers writes them: `config.json` beside safetensors files.

A model is one file `diffusion_pytorch_model.safetensors`, or several that an index beside them
lists. Pickled checkpoints are never opened: reading one runs the code in it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ttm_jax.errors import InputError, nearest
from ttm_jax.untrusted import inside, is_repository, read_object

WEIGHTS = 'diffusion_pytorch_model.safetensors'
INDEX = f'{WEIGHTS}.index.json'
CONFIG = 'config.json'
_HALF = ('F32', 'BF16', 'F16')
PICKLES = ('.ckpt', '.bin', '.pt', '.pth', '.pkl')


@dataclasses.dataclass(frozen=True)
class Weights:
  """The tensors of one model, under the names that they have there.

  Attributes:
    folder: where they were read.
    config: what `config.json` says.
    tensors: float32 NumPy arrays by name.
  """

  folder: Path
  config: Mapping[str, Any]
  tensors: Mapping[str, np.ndarray]


def locate(source: str, part: str = '') -> Path:
  """The folder of a model.

  Args:
    source: a folder, or the id of a repository on the Hugging Face hub (`owner/name`), of which
      the files of the model are then fetched.
    part: the folder of the model inside of `source`, where there is one.

  Raises:
    InputError: if there is no such folder or repository, or it is a pickled checkpoint.
  """
  path = Path(source)
  if path.suffix in PICKLES:
    raise InputError(pickled(path))
  if not path.is_dir():
    if path.exists() or '/' not in source or not is_repository(source):
      raise InputError(
        f'{source} is no folder with {CONFIG} and {WEIGHTS}, and no id of a repository (owner/name)'
      )
    path = _fetch(source, part)
  return path / part if part and (path / part).is_dir() else path


def read(folder: Path, half: bool = False) -> Weights:
  """Reads a folder of weights.

  Args:
    half: whether half-precision values will do; they become float32 too.

  Raises:
    InputError: if a file is missing or broken, holds half-precision values, is a pickle, or lies
      outside of the folder.
  """
  if not (folder / CONFIG).is_file():
    raise InputError(f'{folder} holds no model: {CONFIG} is missing')
  config = read_object(folder / CONFIG)
  if (folder / INDEX).is_file():
    listed = read_object(folder / INDEX).get('weight_map')
    if not isinstance(listed, dict) or not listed:
      raise InputError(f'{folder / INDEX} lists no tensors ("weight_map"): copy it again')
    places = {str(name): inside(folder, name, folder / INDEX) for name in listed.values()}
  else:
    listed, places = None, {WEIGHTS: folder / WEIGHTS}
  tensors: dict[str, np.ndarray] = {}
  for name, place in sorted(places.items()):
    if not place.is_file():
      raise InputError(_missing(folder, name))
    some = _tensors(place, half)
    if twice := sorted(some.keys() & tensors.keys()):
      raise InputError(f'{place} holds the tensor {twice[0]} a second time: copy the folder again')
    tensors |= some
  if listed is not None and (lost := sorted(set(listed) - set(tensors))):
    raise InputError(f'{folder / INDEX} lists the tensor {lost[0]}, which {listed[lost[0]]} lacks')
  return Weights(folder, config, tensors)


def pickled(path: Path) -> str:
  """Why a checkpoint is refused, and how to convert it."""
  return (
    f'{path} is a pickled checkpoint, which can run code when it is opened: convert it once, where'
    ' you trust it, with diffusers (from_single_file or from_pretrained, then'
    ' save_pretrained(FOLDER, safe_serialization=True)), and give that folder'
  )


def _missing(folder: Path, name: str) -> str:
  if name != WEIGHTS:
    return f'{folder / name} is missing, which {INDEX} lists: copy the folder again, whole'
  for found in sorted(folder.iterdir()):
    if found.suffix in PICKLES:
      return pickled(found)
    if found.suffix == '.safetensors' and 'fp16' in found.name:
      return (
        f'{folder} has only half-precision weights ({found.name}): take the full ones, {WEIGHTS}'
      )
  return f'{folder} holds no weights: {WEIGHTS} is missing'


def _tensors(path: Path, half: bool) -> dict[str, np.ndarray]:
  try:
    with safe_open(path, framework='np') as file:
      names = list(file.keys())
      for name in names:
        if (dtype := file.get_slice(name).get_dtype()) not in (_HALF if half else ('F32',)):
          raise InputError(
            f'{path}: tensor {name} is {dtype}, training starts from full precision (F32): take the'
            f' files without "fp16" in their names'
          )
      # Reading half precision, NumPy learns of bfloat16 by ml_dtypes.
      return {name: np.asarray(file.get_tensor(name), np.float32) for name in names}
  except (SafetensorError, OSError) as error:
    raise InputError(
      f'{path} is no whole safetensors file ({error}): it was perhaps cut off, copy it again'
    ) from error


def _fetch(repository: str, part: str) -> Path:
  try:
    from huggingface_hub import snapshot_download
  except ImportError as error:
    raise InputError(
      f'{repository} is no folder here; to fetch it from the hub, pip install huggingface_hub'
    ) from error
  files = [CONFIG, WEIGHTS, INDEX, 'diffusion_pytorch_model-*-of-*.safetensors']
  wanted = [*files, *(f'{part}/{file}' for file in files if part)]
  try:
    return Path(snapshot_download(repository, allow_patterns=wanted))
  except Exception as error:  # The hub client has a dozen kinds, by version.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise InputError(
      f'{repository} is no folder here and could not be fetched from the hub ({reason}):'
      ' download it elsewhere and give the folder'
    ) from error


def unknown(weights: Weights, names: list[str], known: list[str]) -> InputError:
  """The error for tensors that have no place."""
  return InputError(
    f'{weights.folder}: tensor {names[0]} has no place in the model'
    f'{nearest(names[0], known)}; {len(names)} of {len(weights.tensors)} tensors have none'
  )
