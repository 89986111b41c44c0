"""Mixtures of latents datasets: which they are, how often each is read, and whether they agree.

A mixture is written as one text, the value of `config.data.path`:

    DIR                     one dataset, or a folder of datasets: all of them, by number of records
    DIR_A:0.7,DIR_B:0.3     several, each with its weight, the share of the batches

Each dataset has its own shape of clips, and each batch comes from one dataset. Everything else must
agree, so that one context serves all.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from ttm_jax.codecs.base import Codec
from ttm_jax.data import records
from ttm_jax.data.context import FOLDER, Context, Encoding, Shape, read_encoding
from ttm_jax.errors import InputError
from ttm_jax.settings import first_difference

TRAIN = 'train'

# Fields of `Encoding` that all datasets of a mixture share, and those that only videos share: an
# image has no frame rate, of which the prefix is made.
_SHARED = ('preset', 'palette', 'max_objects', 'encoders')
_OF_VIDEOS = ('fps', 'prefix')


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One dataset of a mixture.

  Attributes:
    path: folder or URL of the dataset.
    weight: share of the batches that come from it; the weights of a mixture add up to 1.
  """

  path: str
  weight: float


def datasets(text: str) -> tuple[Dataset, ...]:
  """Return the datasets of a mixture, with folders of datasets replaced by what they hold.

  A text is a mixture if a part of it, between commas, ends in a colon and a number. Other texts are
  one path, which may contain commas and colons, as paths in a mixture may contain colons (gs://).

  Args:
    text: see the module docstring.

  Raises:
    InputError: a path, or the weight of one, is missing; a weight is not positive; or a path occurs
      twice.
  """
  found = [
    Dataset(inner.path, weight * inner.weight)
    for path, weight in _listed(text)
    for inner in _inside(path)
  ]
  for i, one in enumerate(found):
    if one.path in [other.path for other in found[:i]]:
      raise InputError(f'config.data.path names {one.path} twice: name it once')
  total = math.fsum(one.weight for one in found)
  return tuple(Dataset(one.path, one.weight / total) for one in found)


def _listed(text: str) -> list[tuple[str, float]]:
  """Return the paths and weights of a mixture as written."""
  parts = [part.strip() for part in text.split(',')]
  weights = [_weight(part.rpartition(':')[2]) if ':' in part else None for part in parts]
  if len(parts) == 1 or not any(weight is not None for weight in weights):
    return [(text, 1.0)]
  found = []
  for part, weight in zip(parts, weights, strict=True):
    path = part.rpartition(':')[0]
    if weight is None or not path:
      raise InputError(
        f'config.data.path: {part!r} is not a dataset with its weight: write DIR_A:0.7,DIR_B:0.3'
      )
    if not 0 < weight < math.inf:
      raise InputError(f'config.data.path: the weight of {path} must be above 0, got {weight:g}')
    found.append((path, weight))
  return found


def _weight(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


def _inside(path: str) -> list[Dataset]:
  """Return the datasets in a folder, weighted by records, or the path itself if it is a dataset."""
  folder = epath.Path(path)
  if not _is_dataset(folder) and folder.is_dir():
    inner = sorted(str(place) for place in folder.iterdir() if _is_dataset(place))
    counts = {place: records.count(place, TRAIN) for place in inner}
    if any(counts.values()):
      return [Dataset(place, count) for place, count in _shares(counts).items() if count]
  return [Dataset(path, 1.0)]


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
  total = sum(counts.values())
  return {name: count / total for name, count in counts.items()}


def _is_dataset(folder: epath.Path) -> bool:
  return (folder / FOLDER / 'context.json').exists()


def load(parts: Sequence[Dataset]) -> Context:
  """Return the context of a run on a mixture: that of its first videos, with the shapes of all.

  Without videos, it is that of the first images. Codecs may be large, so only the first process
  compares them, one after the other.

  Args:
    parts: the datasets, at least one.

  Raises:
    InputError: two datasets differ in more than the shape of their clips, or a context is missing
      or corrupt.
  """
  encodings = [read_encoding(part.path) for part in parts]
  main = next((i for i, encoding in enumerate(encodings) if encoding.frames > 1), 0)
  first, context = parts[main].path, Context.load(parts[main].path)
  if len(parts) == 1:
    return context
  for part, encoding in zip(parts, encodings, strict=True):
    reason = _difference(context.encoding, encoding)
    if not reason and part.path != first and jax.process_index() == 0:
      reason = _other_models(context, Context.load(part.path), first)
    if reason:
      raise InputError(f'{first} and {part.path} cannot be mixed: {reason}; encode both alike')
  shapes = [Shape.of(e, part.weight) for e, part in zip(encodings, parts, strict=True)]
  return dataclasses.replace(context, mixed=tuple(shapes))


def _difference(a: Encoding, b: Encoding) -> str:
  """Return the first field that two encodings of a mixture must share and do not, or ''."""
  videos = a.frames > 1 and b.frames > 1
  fields = _SHARED + (_OF_VIDEOS if videos else ())
  ours, theirs = (
    {field: values[field] for field in fields} for values in map(dataclasses.asdict, (a, b))
  )
  found = first_difference(ours, theirs)
  return f'{found[0]} is {found[1]!r} and {found[2]!r}' if found else ''


def _other_models(a: Context, b: Context, first: str) -> str:
  """Return whether two contexts are of different codecs or text encoders, in words, or ''."""
  if not same_codec(a.codec, b.codec):
    return f'they were encoded by different codecs (--codec={first} of data_tools.encode takes one)'
  if name := _other_text(a.null_text, b.null_text):
    return f'they were embedded by different text encoders ({name} of the empty text differs)'
  return ''


def _other_text(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> str:
  """Return the first array in which two empty texts differ by more than rounding, or ''."""
  for name in sorted({*a, *b}):
    if name not in a or name not in b or not _close(a[name], b[name], 2e-2):
      return name
  return ''


def same_codec(a: Codec, b: Codec) -> bool:
  """Return whether two codecs produce the same latents, up to rounding.

  Compare sizes and weights, not the recorded statistics of a fit.
  """
  ours, theirs = jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b)
  if type(a) is not type(b) or a.stride != b.stride or len(ours) != len(theirs):
    return False
  # A codec fitted to the same clips on another machine differs in the last bits.
  return all(
    path == other and _close(np.asarray(x), np.asarray(y), 1e-3)
    for (path, x), (other, y) in zip(ours, theirs, strict=True)
  )


def _close(x: np.ndarray, y: np.ndarray, tolerance: float) -> bool:
  """Return whether arrays of one shape and dtype differ by less than a share of their values."""
  if x.shape != y.shape or x.dtype != y.dtype:
    return False
  largest = float(np.abs(x).max(initial=0))
  return bool(np.allclose(x, y, rtol=tolerance, atol=tolerance * largest))
