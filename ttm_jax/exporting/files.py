"""Write the weights of a model as safetensors files, and output folders atomically."""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.atomic import check_free, new_folder
from ttm_jax.errors import InputError
from ttm_jax.pretrained.weights import INDEX, WEIGHTS
from ttm_jax.tensor_file import save_tensors

SHARD = 2 * 10**9  # Maximum bytes of tensors per file; an export holds one file in memory.


@dataclasses.dataclass(frozen=True)
class Spec:
  """Name and shape of a tensor that will be written."""

  name: str
  shape: tuple[int, ...]

  def bytes(self, dtype: np.dtype) -> int:
    """Return the size in bytes of the tensor in a dtype."""
    return math.prod(self.shape) * dtype.itemsize


def shards(specs: Sequence[Spec], dtype: np.dtype, limit: int = SHARD) -> list[list[Spec]]:
  """Split tensors into files, in order: as many per file as fit, at least one.

  Args:
    specs: tensors in the order of writing.
    dtype: dtype that they are written in.
    limit: maximum bytes of tensors per file. One larger tensor still gets its own file.
  """
  files: list[list[Spec]] = [[]]
  size = 0
  for spec in specs:
    if files[-1] and size + spec.bytes(dtype) > limit:
      files.append([])
      size = 0
    files[-1].append(spec)
    size += spec.bytes(dtype)
  return files


def write_tensors(
  folder: Path,
  specs: Sequence[Spec],
  tensors: Iterable[tuple[str, np.ndarray]],
  dtype: np.dtype,
  limit: int = SHARD,
) -> None:
  """Write the weights of a model as diffusers does: one file, or several files and an index.

  The tensors of one file are in memory at a time.

  Args:
    folder: output folder; created if missing.
    specs: names and shapes of all tensors, in order. They determine the split into files.
    tensors: (name, array) of each tensor, in the same order; consumed one at a time.
    dtype: dtype that the tensors are written in.
    limit: maximum bytes of tensors per file.

  Raises:
    ValueError: `tensors` does not match `specs`.
    OSError: a file cannot be written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  files = shards(specs, dtype, limit)
  names = [WEIGHTS]
  if len(files) > 1:
    stem = WEIGHTS.removesuffix('.safetensors')
    names = [f'{stem}-{i:05d}-of-{len(files):05d}.safetensors' for i in range(1, len(files) + 1)]
    total = sum(spec.bytes(dtype) for spec in specs)
    listed = {s.name: file for file, some in zip(names, files, strict=True) for s in some}
    index = {'metadata': {'total_size': total}, 'weight_map': dict(sorted(listed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')
  coming = iter(tensors)
  for name, some in zip(names, files, strict=True):
    held = {}
    for spec in some:
      found, value = next(coming)
      if (found, value.shape) != (spec.name, spec.shape):
        raise ValueError(f'{found} {value.shape} came where {spec} was announced')
      held[found] = np.asarray(value, dtype)
    save_tensors(folder / name, held, {'format': 'pt'})
  if (rest := next(coming, None)) is not None:
    raise ValueError(f'{rest[0]} was not announced')


@contextlib.contextmanager
def whole(out: Path, needed: int) -> Iterator[Path]:
  """Yield a temporary folder that becomes `out` on success and is removed on failure.

  If two exports write to the same `out`, the first to finish succeeds and the other raises.

  Args:
    out: folder to create. The path must be free: nothing there, or an empty folder.
    needed: estimate of the bytes that will be written.

  Raises:
    InputError: `out` is not free at the start or at the end, disk space is insufficient, or a write
      fails.
  """
  try:
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
      raise InputError(
        f'the export takes {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free at {out.parent}:'
        ' free space or choose another --out'
      )
    with new_folder(out) as partial:
      yield partial
  except OSError as error:
    raise InputError(
      f'cannot write {out} ({error.strerror or error}): free space or choose another --out; nothing'
      ' was left there'
    ) from error
