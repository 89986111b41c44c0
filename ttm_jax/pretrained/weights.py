"""Read folders of open weights in the format of diffusers: `config.json` and safetensors files.

`read` checks all files by their headers. The values are read later, tensor by tensor and slice by
slice, so that host memory need not hold a model. The weights are one file
`diffusion_pytorch_model.safetensors`, or several files that an index file lists. Pickled
checkpoints are never opened, because unpickling can run arbitrary code.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ttm_jax.errors import InputError, nearest
from ttm_jax.json_file import read_object
from ttm_jax.untrusted import inside, is_repository

WEIGHTS = 'diffusion_pytorch_model.safetensors'
INDEX = f'{WEIGHTS}.index.json'
CONFIG = 'config.json'
_HALF = ('F32', 'BF16', 'F16')
PICKLES = ('.ckpt', '.bin', '.pt', '.pth', '.pkl')


class StoredTensor:
  """A tensor of a safetensors file, read as float32 when it is sliced or converted by NumPy.

  The value is not cached, and the file is open only while it is read.

  Attributes:
    path: the file.
    name: name of the tensor in it.
    shape: shape of the tensor.
    dtype: float32, also for tensors stored in half precision.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, path: Path, name: str, shape: Sequence[int]):
    self.path, self.name, self.shape = path, name, tuple(shape)

  @property
  def ndim(self) -> int:
    """The number of axes."""
    return len(self.shape)

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    """Read a part of the tensor: one slice of step 1 per axis.

    Raises:
      InputError: if the file has changed since its header was read.
    """
    with _opened(self.path) as file:
      # NumPy reads bfloat16 through ml_dtypes.
      return np.asarray(file.get_slice(self.name)[index or ...], np.float32)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self[()], dtype)


@dataclasses.dataclass(frozen=True)
class Weights:
  """The configuration and tensors of one model, under their original names.

  Attributes:
    folder: folder or single file that they were read from.
    config: contents of `config.json`; empty for a single file.
    tensors: float32 tensors by name: each a `StoredTensor` or a NumPy array.
  """

  folder: Path
  config: Mapping[str, Any]
  tensors: Mapping[str, StoredTensor | np.ndarray]


def locate(source: str, part: str = '') -> Path:
  """Return the folder of a model; download the model if `source` is a hub id.

  Args:
    source: a folder, or the id of a repository on the Hugging Face hub (`owner/name`).
    part: optional subfolder of `source` with the model. Without such a subfolder, `source` itself
      is the model.

  Raises:
    InputError: there is no such folder or repository, the download failed, or `source` is a pickled
      checkpoint.
  """
  path = Path(source)
  if path.suffix in PICKLES:
    raise InputError(pickled(path))
  if not path.is_dir():
    if path.exists() or '/' not in source or not is_repository(source):
      raise InputError(
        f'{source} is not a folder with {CONFIG} and {WEIGHTS}, nor a repository id (owner/name)'
      )
    path = _fetch(source, part)
  return path / part if part and (path / part).is_dir() else path


def read(folder: Path, half: bool = False) -> Weights:
  """Read and check a folder of weights, except for the values of its tensors.

  Args:
    folder: folder with `config.json` and safetensors files.
    half: whether to accept bfloat16 and float16 tensors, which are read as float32.

  Raises:
    InputError: a file is missing, corrupt, a pickle, or outside of the folder. Also if a tensor is
      in half precision and `half` is false.
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
  tensors: dict[str, StoredTensor | np.ndarray] = {}
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


def read_file(path: Path, half: bool = False) -> Weights:
  """Read a checkpoint of a single safetensors file, which has no configuration.

  Args:
    path: the file.
    half: whether to accept bfloat16 and float16 tensors, which are converted to float32.

  Raises:
    InputError: the file is corrupt or a pickle. Also if a tensor is in half precision and `half` is
      false.
  """
  if path.suffix in PICKLES:
    raise InputError(pickled(path))
  return Weights(path, {}, _tensors(path, half))


def pickled(path: Path) -> str:
  """Return the error message for a pickled checkpoint, with instructions to convert it."""
  return (
    f'{path} is a pickled checkpoint, which can run code when it is opened: convert it once, where'
    ' you trust it, with diffusers (from_single_file or from_pretrained, then'
    ' save_pretrained(FOLDER, safe_serialization=True)), and give that folder'
  )


def _missing(folder: Path, name: str) -> str:
  if name != WEIGHTS:
    return f'{folder / name} is missing, which {INDEX} lists: copy the complete folder again'
  for found in sorted(folder.iterdir()):
    if found.suffix in PICKLES:
      return pickled(found)
    if found.suffix == '.safetensors' and 'fp16' in found.name:
      return (
        f'{folder} has only half-precision weights ({found.name}): take the full ones, {WEIGHTS}'
      )
  return f'{folder} holds no weights: {WEIGHTS} is missing'


def _tensors(path: Path, half: bool) -> dict[str, StoredTensor]:
  found = {}
  with _opened(path) as file:
    for name in file.keys():  # noqa: SIM118, a file is no dict.
      header = file.get_slice(name)
      if (dtype := header.get_dtype()) not in (_HALF if half else ('F32',)):
        raise InputError(
          f'{path}: tensor {name} is {dtype}, training starts from full precision (F32): take the'
          f' files without "fp16" in their names'
        )
      found[name] = StoredTensor(path, name, header.get_shape())
  return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
  """Open a safetensors file, and convert the errors of the block to InputError."""
  try:
    with safe_open(path, framework='np') as file:
      yield file
  except (SafetensorError, OSError) as error:
    raise InputError(
      f'{path} is not a complete safetensors file ({error}): it was perhaps cut off, copy it again'
    ) from error


def _fetch(repository: str, part: str) -> Path:
  try:
    from huggingface_hub import snapshot_download
  except ImportError as error:
    raise InputError(
      f'{repository} is not a folder here; to fetch it from the hub, pip install huggingface_hub'
    ) from error
  files = [CONFIG, WEIGHTS, INDEX, 'diffusion_pytorch_model-*-of-*.safetensors']
  wanted = [*files, *(f'{part}/{file}' for file in files if part)]
  try:
    return Path(snapshot_download(repository, allow_patterns=wanted))
  except Exception as error:  # The exceptions of the hub client depend on its version.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise InputError(
      f'{repository} is not a folder here and could not be fetched from the hub ({reason}):'
      ' download it elsewhere and give the folder'
    ) from error


def unknown(weights: Weights, names: list[str], known: list[str]) -> InputError:
  """Return the error for tensors that the model does not have.

  Args:
    weights: the checkpoint.
    names: unknown tensors; the message names the first.
    known: names in the model, to suggest the nearest.
  """
  return InputError(
    f'{weights.folder}: tensor {names[0]} has no place in the model'
    f'{nearest(names[0], known)}; {len(names)} of {len(weights.tensors)} tensors have none'
  )
