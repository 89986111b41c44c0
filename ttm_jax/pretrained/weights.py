"""Folders of open weights as diffusers writes them: `config.json` beside safetensors files.

A model is one file `diffusion_pytorch_model.safetensors`, or several that an index beside them
lists. Pickled checkpoints are never opened: reading one runs the code in it.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ttm_jax.errors import InputError, nearest

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
    if path.exists() or not re.fullmatch(r'[\w.-]+/[\w.-]+', source):
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
    InputError: if a file is missing or broken, holds half-precision values, or is a pickle.
  """
  if not (folder / CONFIG).is_file():
    raise InputError(f'{folder} holds no model: {CONFIG} is missing')
  config = _json(folder / CONFIG)
  if (folder / INDEX).is_file():
    listed = _json(folder / INDEX).get('weight_map')
    if not isinstance(listed, dict) or not listed:
      raise InputError(f'{folder / INDEX} lists no tensors ("weight_map"): copy it again')
    files = sorted(set(listed.values()))
  else:
    listed, files = None, [WEIGHTS]
  tensors: dict[str, np.ndarray] = {}
  for name in files:
    if not (folder / name).is_file():
      raise InputError(_missing(folder, name))
    tensors |= _tensors(folder / name, half)
  if listed is not None and (lost := sorted(set(listed) - set(tensors))):
    raise InputError(f'{folder / INDEX} lists the tensor {lost[0]}, which {listed[lost[0]]} lacks')
  return Weights(folder, config, tensors)


def expect(weights: Weights, wanted: Mapping[str, Any]) -> None:
  """Raises InputError that names the first value of a config that is not the wanted one.

  What a config does not say has the value of the time when it was written, and is left to the
  shapes of the tensors. One number stands for a list of equal ones.
  """
  for key, value in wanted.items():
    found = weights.config.get(key)
    if found is None:
      continue
    if isinstance(found, list) and not isinstance(value, tuple):
      found = found[0] if len(set(found)) == 1 else found
    if isinstance(value, tuple) and isinstance(found, list):
      found = tuple(found)
    if found != value:
      raise InputError(
        f'{weights.folder} holds another architecture: {key} is {found} there, {value} is needed'
      )


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


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(f'{path} is not JSON ({error}): copy it again') from error
  if not isinstance(found, dict):
    raise InputError(f'{path} must hold a JSON object: copy it again')
  return found


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
