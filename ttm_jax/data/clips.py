"""The clips data set: `Clip`s on disk, pixels and label maps without loss."""

import functools
import multiprocessing
import operator
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ttm_jax.data import records, video_io
from ttm_jax.data.schema import VERSION, Clip
from ttm_jax.errors import InputError

NAME = 'clips'

# A `Text` holds any bytes: TFDS does not look into them.
FEATURES = {
  'key': tfds.features.Text(),
  'video': tfds.features.Text(doc='mp4 of lossless RGB H.264'),
  'ids': tfds.features.Text(doc='zlib of uint8 [T, H, W], each frame XOR the frame before'),
  'shape': tfds.features.Tensor(shape=(3,), dtype=np.int32, doc='T, H, W'),
  # A float64 in any other encoding comes back as float32.
  'fps': tfds.features.Tensor(shape=(), dtype=np.float64, encoding='bytes'),
  'caption': tfds.features.Text(),
  'motion': tfds.features.Text(),
  'names': tfds.features.Sequence(tfds.features.Text()),
  'prompts': tfds.features.Sequence(tfds.features.Text()),
}


def encode_clip(clip: Clip) -> records.Example:
  """The record of a clip, as FEATURES describe it."""
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
  """The inverse of `encode_clip`.

  Raises:
    InputError: the pixels or the label maps are damaged or do not fit together.
  """
  key = record['key'].decode()
  video, _ = video_io.decode_video(record['video'])
  return Clip(
    key=key,
    video=video,
    ids=decode_ids(record['ids'], tuple(record['shape'])),
    fps=float(record['fps']),
    caption=record['caption'].decode(),
    motion=record['motion'].decode(),
    names=tuple(name.decode() for name in record['names']),
    prompts=tuple(prompt.decode() for prompt in record['prompts']),
  )


def encode_ids(ids: np.ndarray) -> bytes:
  """Label maps uint8 [T, H, W], compressed without loss."""
  changes = ids.copy()
  changes[1:] ^= ids[:-1]
  return zlib.compress(changes.tobytes(), 6)


def decode_ids(compressed: bytes, shape: tuple[int, ...]) -> np.ndarray:
  """The inverse of `encode_ids`: uint8 of `shape`, (T, H, W).

  Raises:
    InputError: the bytes are damaged or of another shape.
  """
  try:
    changes = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(shape)
  except (zlib.error, ValueError) as error:
    raise InputError(f'{len(compressed)} bytes are not label maps of {shape} ({error})') from error
  return np.bitwise_xor.accumulate(changes, axis=0)


def write_clips(
  directory: epath.PathLike,
  splits: Mapping[str, Iterable[Clip]],
  metadata: dict[str, Any] | None = None,
  workers: int = 0,
) -> None:
  """Writes a clips data set, or nothing at all.

  Args:
    directory: see `records.write`.
    splits: clips of unique keys, by split.
    metadata: anything JSON can hold.
    workers: this many processes make and encode the clips of a split, which must then be a
      sequence that can be sent to them (`scenes.Scenes`). With 0 this process does it.

  Raises:
    InputError: see `records.write`.
  """
  encoded = {split: _Encoded(clips, workers) for split, clips in splits.items()}
  records.write(directory, NAME, VERSION, FEATURES, encoded, metadata)


class _Encoded:
  """Keys and records of clips, as many as there are clips."""

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
    # A forked copy of a process with threads may hang.
    with multiprocessing.get_context('spawn').Pool(self._workers) as pool:
      yield from pool.imap(work, range(len(self._clips)), chunksize=8)


def _keyed_record(clips: Sequence[Clip], index: int) -> tuple[str, records.Example]:
  clip = clips[index]
  return clip.key, encode_clip(clip)


class Clips(Sequence[Clip]):
  """The clips of one split of a clips data set, read on demand: a source for Grain.

  Attributes:
    records: what lies beneath; `records.metadata` is what the writer said.
  """

  def __init__(self, directory: epath.PathLike, split: str):
    """Opens a split.

    Raises:
      InputError: see `records.Records`.
    """
    self.records = records.Records(directory, split, NAME, VERSION)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index):
    """Clip `index`, 0 <= index < len.

    Raises:
      IndexError: out of range.
      InputError: the file that holds it is damaged.
    """
    record = self.records[index]
    try:
      return decode_clip(record)
    except InputError as error:
      raise InputError(
        f'{self.records.file_of(index)}: record {index} is damaged ({error}); write it again'
      ) from error
