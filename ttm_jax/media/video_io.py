"""Write videos, and turn frames into the bytes of a record and back; through PyAV.

Two kinds of H.264: for eyes (`write_video`: yuv420p mp4, plays in every browser) and for records
(`encode_video`: RGB without loss, which keeps pixels and label maps exactly aligned). Codecs run
on one thread and without x264's nondeterministic assembly, so equal frames give equal bytes.
`ttm_jax.media.video_reader` reads video files.
"""

import io
import os
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from ttm_jax.atomic import new_file
from ttm_jax.errors import InputError

PathLike = str | os.PathLike[str]

# The macroblock-tree rate control of x264 is not reproducible with its fastest assembly.
_DETERMINISTIC = {'x264-params': 'cpu-independent=1'}


def write_video(path: PathLike, frames: np.ndarray, fps: float) -> None:
  """Writes an H.264 yuv420p mp4 that plays in a browser; a reader never sees half a file.

  yuv420p has even sizes only: an odd height or width gains one row or column, repeated from the
  edge. The loss is invisible, but not zero; records use `encode_video`.

  Args:
    path: its folder is made where missing.
    frames: uint8 [T, H, W, 3].
    fps: frames per second.
  """
  _check(frames, fps)
  height, width = frames.shape[1:3]
  even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  options = {'crf': '16', 'preset': 'medium', **_DETERMINISTIC}
  # "file:": a name with a colon is no protocol. "faststart": a browser can begin before it has the
  # whole file.
  movie = {'movflags': '+faststart'}
  with new_file(path) as part, av.open(f'file:{part}', 'w', 'mp4', movie) as container:
    _encode(container, even, fps, 'libx264', 'yuv420p', options)


def encode_video(frames: np.ndarray, fps: float) -> bytes:
  """Frames uint8 [T, H, W, 3] as the bytes of an mp4 file of lossless RGB H.264.

  Takes about 0.3 bytes a value: filmed video at 256x256 and 8 fps, or scenes at 48x48.
  """
  _check(frames, fps)
  buffer = io.BytesIO()
  # The preset trades time for size only: quantiser 0 is lossless in all of them. The fastest is
  # written 8 and read 4 times as fast as the usual one, for a sixth more bytes (filmed video).
  with av.open(buffer, 'w', 'mp4') as container:
    _encode(container, frames, fps, 'libx264rgb', 'rgb24', {'crf': '0', 'preset': 'ultrafast'})
  return buffer.getvalue()


def decode_video(
  encoded: bytes, shape: tuple[int, int, int] | None = None
) -> tuple[np.ndarray, float]:
  """The inverse of `encode_video`, bit for bit: uint8 [T, H, W, 3] and frames per second.

  Args:
    shape: (T, H, W) that the video must have. Decoding stops at the first frame that does not fit,
      so that a few bytes cannot fill the memory.

  Raises:
    InputError: the bytes are no video, damaged, or a video of another shape.
  """
  frames: list[np.ndarray] = []
  try:
    # The format is given: others that FFmpeg would try are lists of further files to open.
    with av.open(io.BytesIO(encoded), 'r', format='mp4') as container:
      stream = _stream(container)
      rate = stream.average_rate
      if shape is not None:
        # The coded size is that of whole macroblocks, at most 32 pixels a side.
        height, width = shape[1] + 32, shape[2] + 32
        stream.codec_context.options = {'max_pixels': str(height * width)}
      for frame in container.decode(stream):
        if shape is not None and (
          len(frames) == shape[0] or (frame.height, frame.width) != shape[1:]
        ):
          raise InputError(
            f'an encoded video of {len(encoded)} bytes is not of {shape} frames, height, width:'
            f' frame {len(frames)} has {frame.height} x {frame.width}'
          )
        # As planes of green, blue and red, which PyAV brings into order faster than a conversion.
        frames.append(frame.to_ndarray())
  except (av.FFmpegError, LookupError) as error:
    raise InputError(f'{len(encoded)} bytes are not an encoded video') from error
  if not frames or not rate:
    raise InputError(f'an encoded video of {len(encoded)} bytes holds no frames')
  if shape is not None and len(frames) != shape[0]:
    raise InputError(
      f'an encoded video of {len(encoded)} bytes holds {len(frames)} frames, not {shape[0]}'
    )
  return np.stack(frames), float(rate)


def _check(frames: np.ndarray, fps: float) -> None:
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
    raise InputError(
      f'a video must be uint8 [T, H, W, 3] with T, H, W >= 1, got {frames.dtype} {frames.shape}'
    )
  if not fps > 0:
    raise InputError(f'frames per second must be positive, got {fps}')


def _stream(container: InputContainer) -> av.VideoStream:
  stream = container.streams.video[0]
  stream.thread_type = 'NONE'
  return stream


def _encode(
  container: OutputContainer,
  frames: np.ndarray,
  fps: float,
  codec: str,
  pixels: str,
  options: dict[str, str],
) -> None:
  stream = container.add_stream(codec, Fraction(fps).limit_denominator(1001), options)
  assert isinstance(stream, av.VideoStream)
  stream.height, stream.width = frames.shape[1:3]
  stream.pix_fmt = pixels
  context = stream.codec_context
  context.thread_count = 1
  if pixels == 'yuv420p':
    # Untagged, players guess the colour matrix from the size of the picture.
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
  for array in frames:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format='rgb24')
    if pixels == 'yuv420p':
      frame = frame.reformat(
        format=pixels, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
      )
    container.mux(stream.encode(frame))
  container.mux(stream.encode(None))
