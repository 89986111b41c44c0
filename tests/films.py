"""Video files as cameras, phones and accidents make them."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ttm_jax import trajectory
from ttm_jax.data import video_io


def levels(count: int, size: tuple[int, int] = (32, 48), step: int = 10) -> np.ndarray:
  """Frames uint8 [count, H, W, 3]: frame t is grey of level `step` t."""
  grey = (np.arange(count) * step).astype(np.uint8)
  return np.broadcast_to(grey[:, None, None, None], (count, *size, 3)).copy()


def save(path: Path, frames: np.ndarray, fps: float = 12) -> Path:
  """An ordinary mp4."""
  video_io.write_video(path, frames, fps)
  return path


def save_with(
  path: Path,
  frames: np.ndarray,
  times: Sequence[Fraction],
  pixels: str = 'yuv420p',
  codec: str = 'libx264',
  transfer: int | None = None,
) -> Path:
  """Frames shown at the given times, seconds, in another kind of pixels or codec."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, 1000, {'crf': '2'} if codec == 'libx264' else {})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pixels
    stream.codec_context.time_base = Fraction(1, 1000)
    if transfer is not None:
      stream.codec_context.color_trc = transfer
    for array, time in zip(frames, times, strict=True):
      frame = av.VideoFrame.from_ndarray(array, format='rgb24').reformat(format=pixels)
      frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
      if transfer is not None:
        frame.color_trc = transfer
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def turn(path: Path) -> Path:
  """Notes in an mp4 that it is to be shown turned by a quarter clockwise, as phones do."""
  content = bytearray(path.read_bytes())
  # The track header: size, 'tkhd', version 0 and flags, 36 bytes, then a matrix of nine numbers.
  start = content.index(b'tkhd') + 4 + 4 + 36
  one = 1 << 16
  content[start : start + 36] = struct.pack('>9i', 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
  path.write_bytes(content)
  return path


def save_sound(path: Path) -> Path:
  """A file of sound without a picture."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', 8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


def save_empty(path: Path, kind: str) -> Path:
  """A video without a frame."""
  with av.open(str(path), 'w', kind) as container:
    stream = container.add_stream('mpeg4', 12)
    stream.height, stream.width, stream.pix_fmt = 32, 48, 'yuv420p'
    container.start_encoding()
  return path


def truncate(path: Path, share: float = 0.6) -> Path:
  """Cuts the end off a file."""
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * share)])
  return path


def object_video(folder: Path, ids: np.ndarray, fps: float = 12) -> Path:
  """KEY/video.mp4 and KEY/masks: the objects are white on grey of level 10 t."""
  frames = np.where((ids > 0)[..., None], np.uint8(250), levels(len(ids), ids.shape[1:]))
  save(folder / 'video.mp4', frames, fps)
  trajectory.write_folder(folder / 'masks', ids)
  return folder
