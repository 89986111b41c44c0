"""Read and write the clips dataset, which stores `Clip`s losslessly."""

import functools
import math
import multiprocessing
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ttm_jax.data import records
from ttm_jax.data.packed_ids import decode_ids, encode_ids
from ttm_jax.data.schema import VERSION, Clip, check_size
from ttm_jax.errors import InputError
from ttm_jax.media import video_io

NAME = 'clips'

# TFDS does not validate the contents of a `Text` feature, so it can hold any bytes.
FEATURES = {
  'key': tfds.features.Text(),
  'video': tfds.features.Text(doc='mp4 of lossless RGB H.264'),
  'ids': tfds.features.Text(doc='zlib of uint8 [T, H, W], each frame XOR the frame before'),
  'shape': tfds.features.Tensor(shape=(3,), dtype=np.int32, doc='T, H, W'),
  # TFDS reads a float64 back as float32 with any other encoding.
  'fps': tfds.features.Tensor(shape=(), dtype=np.float64, encoding='bytes'),
  'caption': tfds.features.Text(),
  'motion': tfds.features.Text(),
  'names': tfds.features.Sequence(tfds.features.Text()),
  'prompts': tfds.features.Sequence(tfds.features.Text()),
}


def parse(serialized: bytes) -> records.Example:
  """Parse a serialized record by FEATURES, regardless of the `features.json` of the dataset."""
  return _dictionary().deserialize_example_np(serialized)


@functools.cache
def _dictionary() -> tfds.features.FeaturesDict:
  return tfds.features.FeaturesDict(dict(FEATURES))


def encode_clip(clip: Clip) -> records.Example:
  """Return the record of a clip, as described by FEATURES.

  Raises:
    InputError: the clip exceeds `schema.MAX_PIXELS`, so readers would refuse it.
  """
  check_size(*clip.ids.shape)
  return {
    'key': clip.key,
    'video': video_io.encode_video(clip.video, clip.fps),
    'ids': encode_ids(clip.ids),
    'shape': np.array(clip.ids.shape, np.int32),
    'fps': np.float64(clip.fps),
    'caption': clip.caption,
    'motion': clip.motion,
    'names': list(clip.names),
    'prompts': list(clip.prompts),
  }


def decode_clip(record: records.Example) -> Clip:
  """Invert `encode_clip`.

  The `shape` of the record bounds how much is decoded.

  Raises:
    InputError: the pixels, label maps or texts are corrupt or inconsistent with one another.
  """
  frames, height, width = map(int, record['shape'])
  shape = frames, height, width
  check_size(*shape)
  try:
    words = {name: record[name].decode() for name in ('key', 'caption', 'motion')}
    names, prompts = (tuple(w.decode() for w in record[name]) for name in ('names', 'prompts'))
  except UnicodeDecodeError as error:
    raise InputError(f'a text is not UTF-8 ({error})') from error
  fps = float(record['fps'])
  if not 0 < fps < math.inf:
    raise InputError(f'{fps} frames per second')
  video, _ = video_io.decode_video(record['video'], shape)
  return Clip(
    video=video,
    ids=decode_ids(record['ids'], shape),
    fps=fps,
    names=names,
    prompts=prompts,
    **words,
  )


def write_clips(
  directory: epath.PathLike,
  splits: Mapping[str, Iterable[Clip]],
  metadata: dict[str, Any] | None = None,
  workers: int = 0,
) -> None:
  """Write a clips dataset atomically.

  Args:
    directory: see `records.write`.
    splits: the clips of each split, with unique keys.
    metadata: JSON-serializable metadata.
    workers: number of processes that create and encode the clips; each split must then be a
      picklable sequence (such as `scenes.Scenes`). With 0, the calling process does the work.

  Raises:
    InputError: see `records.write`.
  """
  encoded = {split: _Encoded(clips, workers) for split, clips in splits.items()}
  records.write(directory, NAME, VERSION, FEATURES, encoded, metadata)


class _Encoded:
  """An iterable of (key, record) pairs, one for each clip."""

  def __init__(self, clips: Iterable[Clip], workers: int):
    self._clips, self._workers = clips, workers

  def __length_hint__(self) -> int:
    return operator.length_hint(self._clips)

  def __iter__(self) -> Iterator[tuple[str, records.Example]]:
    if not self._workers:
      for clip in self._clips:
        yield clip.key, encode_clip(clip)
      return
    assert isinstance(self._clips, Sequence), 'only sequences can be shared among processes'
    work = functools.partial(_keyed_record, self._clips)
    # Forking a process with threads can deadlock.
    with multiprocessing.get_context('spawn').Pool(self._workers) as pool:
      yield from pool.imap(work, range(len(self._clips)), chunksize=8)


def _keyed_record(clips: Sequence[Clip], index: int) -> tuple[str, records.Example]:
  clip = clips[index]
  return clip.key, encode_clip(clip)


class Clips(Sequence[Clip]):
  """The clips of one split of a clips dataset, read on demand. Usable as a Grain data source.

  Attributes:
    records: the underlying records; `records.metadata` holds the metadata passed to `write_clips`.
  """

  def __init__(self, directory: epath.PathLike, split: str):
    """Open a split.

    Raises:
      InputError: see `records.Records`.
    """
    self.records = records.Records(directory, split, NAME, VERSION)

  def __len__(self) -> int:
    return len(self.records)

  def record(self, index: int) -> records.Example:
    """Return record `index` as described by FEATURES, without decoding the clip.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    return self.records.take(index, parse)

  def __getitem__(self, index):
    """Return clip `index`, 0 <= index < len.

    Raises:
      IndexError: `index` is out of range.
      InputError: the file that holds it is corrupt.
    """
    record = self.record(index)
    try:
      return decode_clip(record)
    except InputError as error:
      raise InputError(
        f'{self.records.file_of(index)}: record {index} is damaged ({error}); write it again'
      ) from error
