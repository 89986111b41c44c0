"""Rows of metrics on disk, so that no sample is measured twice with the same protocol.

The folder has one folder per metric and protocol, with one .npz file per sample, named by a digest
of the sample's content. A scoring that is interrupted resumes after the last batch; several
processes may share a folder.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ttm_jax import outputs
from ttm_jax.atomic import PathLike, new_file
from ttm_jax.metrics.base import Metric, Sample


def measure_cached(
  metric: Metric,
  samples: Sequence[Sample],
  folder: PathLike,
  batch: int = 8,
  progress: Callable[[int], None] = lambda samples: None,
  digests: Sequence[str] | None = None,
) -> np.ndarray:
  """Return the rows of samples, from the cache where it has them.

  Args:
    metric: the metric.
    samples: the samples; equal ones are measured once.
    folder: folder of the cache, which is made if it does not exist.
    batch: number of samples measured between two writes.
    progress: called with the number of samples just finished; they sum to the number of samples.
    digests: `digest` of each sample, if known.

  Returns:
    float64 [N, D], like `metric.measure`.

  Raises:
    InputError: if a sample cannot be measured, or the cache cannot be written.
  """
  place = Path(folder) / _key(metric)
  names = [digest(sample) for sample in samples] if digests is None else list(digests)
  rows = {name: row for name in set(names) if (row := _read(place / f'{name}.npz')) is not None}
  if len({row.size for row in rows.values()}) > 1:
    rows = {}  # Rows of one metric have one width, so the files are not what they were.
  if known := sum(name in rows for name in names):
    progress(known)
  first = {name: number for number, name in reversed(list(enumerate(names)))}
  missing = sorted(number for name, number in first.items() if name not in rows)
  for start in range(0, len(missing), batch):
    part = missing[start : start + batch]
    measured = np.asarray(metric.measure([samples[number] for number in part]), np.float64)
    with outputs.writing(place, 'free space, or name another folder'):
      for number, row in zip(part, measured, strict=True):
        _write(place / f'{names[number]}.npz', row)
        rows[names[number]] = row
    progress(sum(names.count(names[number]) for number in part))
  if not names:
    return np.asarray(metric.measure([]), np.float64)
  return np.stack([rows[name] for name in names])


def digest(sample: Sample) -> str:
  """Return 32 hexadecimal digits of a sample's content, which all metrics depend on.

  They cover both videos, label maps, trajectory, frame rate and texts, but not the key of the clip.
  """
  clip = sample.clip
  found = hashlib.sha256()
  for array in (sample.video, clip.video, clip.ids, sample.trajectory):
    if array is not None:
      found.update(f'{array.dtype}{array.shape}'.encode())
      found.update(np.ascontiguousarray(array).data)
    found.update(b'\0')
  texts = (clip.caption, clip.motion, clip.names, clip.prompts)
  found.update(repr((float(clip.fps), texts)).encode())
  return found.hexdigest()[:32]


def _key(metric: Metric) -> str:
  said = hashlib.sha256(f'{metric.name}\0{metric.protocol}'.encode()).hexdigest()
  return f'{metric.name}-{said[:12]}'


def _read(path: Path) -> np.ndarray | None:
  """Return a row float64 [D]; None if there is no file, or not a valid one."""
  try:
    with np.load(path, allow_pickle=False) as file:
      row = file['row']
  except Exception:  # NumPy and zipfile raise many types for corrupt files.
    return None
  return row if row.dtype == np.float64 and row.ndim == 1 else None


def _write(path: Path, row: np.ndarray) -> None:
  with new_file(path, durable=False) as partial, partial.open('wb') as file:
    np.savez(file, row=row)
