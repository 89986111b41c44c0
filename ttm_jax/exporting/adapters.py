"""Write the adapters of LoRA runs in the format that diffusers and ComfyUI load.

For each stage a folder with

pytorch_lora_weights.safetensors   the adapters, for `load_lora_weights`
new_parts.safetensors              the parts that are trained in full, by their PyTorch names

An adapter of the layer NAME is two tensors: PREFIX.NAME.lora_A.weight, [rank, in], and
PREFIX.NAME.lora_B.weight, [out, rank]. B includes the factor alpha / rank, and the metadata give an
alpha equal to the rank: loaders then scale correctly, also those that read no alpha.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.exporting.dtypes import DTYPES
from ttm_jax.exporting.files import whole
from ttm_jax.nn import lora
from ttm_jax.pretrained.names import LAYOUTS, Entry, iterate_tensors
from ttm_jax.tensor_file import save_tensors
from ttm_jax.training.partial import by_name
from ttm_jax.training.sources import AdaptedRun, adapted_run

# Names that diffusers gives to the file and to its metadata.
WEIGHTS, METADATA = 'pytorch_lora_weights.safetensors', 'lora_adapter_metadata'
NEW_PARTS = 'new_parts.safetensors'

Tensors = Iterator[tuple[str, np.ndarray]]


def export_adapters(stages: Mapping[str, Path], out: Path, dtype: str = 'bf16') -> None:
  """Write the adapters of LoRA runs atomically.

  Args:
    stages: run directories by the name of the folder to write them to.
    out: folder to create.
    dtype: dtype of the tensors, 'bf16' or 'fp32'.

  Raises:
    InputError: a run has no adapters or no PyTorch counterpart, or the folder cannot be written.
  """
  found = {name: _checked(run) for name, run in stages.items()}
  sizes = [np.prod(x.shape) for run in found.values() for x in by_name(run.trained).values()]
  with whole(out, 4 * int(sum(sizes)) + 2**20) as folder:
    for name, run in found.items():
      (folder / name).mkdir()
      adapters = dict(adapter_tensors(run))
      _save(folder / name / WEIGHTS, adapters, dtype, _metadata(run, list(adapters)))
      _save(folder / name / NEW_PARTS, dict(new_parts(run)), dtype)


def _save(
  path: Path, tensors: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str] = {}
) -> None:
  arrays = {name: np.asarray(x, DTYPES[dtype]) for name, x in tensors.items()}
  save_tensors(path, arrays, {'format': 'pt', **metadata})


def adapter_tensors(run: AdaptedRun) -> Tensors:
  """Yield the names and tensors of the adapters of a run."""
  trained = by_name(run.trained)
  for entry in _table(run):
    layer = '.'.join(map(str, entry.ours[:-1]))
    if entry.ours[-1] == 'kernel' and f'{layer}.{lora.A}' in trained:
      a, b = (np.asarray(trained[f'{layer}.{part}']) for part in (lora.A, lora.B))
      yield from _pairs(entry, _prefix(run), a, b * np.float32(run.lora.scale))


def new_parts(run: AdaptedRun) -> Tensors:
  """Yield the names and tensors of the parts of a run that are trained in full."""
  trained = by_name(run.trained)
  table = [e for e in _table(run) if '.'.join(map(str, e.ours)) in trained]
  yield from iterate_tensors(table, run.trained)


def _pairs(entry: Entry, prefix: str, a: np.ndarray, b: np.ndarray) -> Tensors:
  """Yield the tensors of one of our kernels, which may be several in PyTorch.

  Args:
    entry: the entry of the kernel.
    prefix: prepended to names.
    a: [..., in, rank].
    b: [..., rank, out].
  """
  count = len(entry.theirs)
  parts = (
    zip(a, b, strict=True) if entry.stacked else ((a, part) for part in np.split(b, count, -1))
  )
  for name, (down, up) in zip(entry.theirs, parts, strict=True):
    for letter, array in (('A', down), ('B', up)):
      key = f'{prefix}.{name.removesuffix(".weight")}.lora_{letter}.weight'
      yield key, LAYOUTS[entry.layout].theirs(array)


def _metadata(run: AdaptedRun, names: list[str]) -> dict[str, str]:
  """Return the metadata of diffusers: the fields of PEFT's `LoraConfig`, with a prefix."""
  begin, end = f'{_prefix(run)}.', '.lora_A.weight'
  fields = {
    'r': run.lora.rank,
    'lora_alpha': run.lora.rank,
    'lora_dropout': run.lora.dropout,
    'bias': 'none',
    'target_modules': sorted(
      name.removeprefix(begin).removesuffix(end) for name in names if name.endswith(end)
    ),
  }
  return {METADATA: json.dumps({begin + key: value for key, value in fields.items()})}


def _checked(run: Path) -> AdaptedRun:
  """Return a run, or raise InputError if it has no adapters or no PyTorch counterpart."""
  found = adapted_run(run)
  if found is None:
    raise InputError(
      f'run {run} has no adapters (config.lora.rank is 0): export it without --adapters_only'
    )
  if found.preset.torch is None:
    raise InputError(f'run {run}: preset {found.preset.name!r} has no PyTorch counterpart')
  return found


def _table(run: AdaptedRun) -> list[Entry]:
  assert run.preset.torch is not None
  return run.preset.torch.table(run.shapes)


def _prefix(run: AdaptedRun) -> Any:
  assert run.preset.torch is not None
  return run.preset.torch.component
