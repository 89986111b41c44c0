"""The linear codec: principal components of space-time patches, fitted in seconds, not trained."""

import math
from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.codecs.base import Moments, check_frames, check_pixels, to_float
from ttm_jax.codecs.patches import fold, unfold
from ttm_jax.errors import InputError

Array = jax.Array

_LARGEST = 2**15  # Values per patch; their float64 covariance matrix takes 8 GiB.
# These matrix products are cheap, and their precision limits the reconstruction quality.
_HIGHEST = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class LinearCodec:
  """Principal component analysis (PCA) of patches of (st, sh, sw) pixels, with C components.

  Latents have zero mean and, over all channels together, unit mean square. They are not whitened:
  channels keep their relative scales, so squared errors in latents and in pixels are proportional.

  A clip whose length is not a multiple of st is padded with its last frame. An image is a clip of
  one frame.

  A lapped codec first mixes the pixels on both sides of every border between patches by an
  orthogonal matrix (the folding of the modified discrete cosine transform with a sine window;
  Malvar, "Signal Processing with Lapped Transforms", 1992). So neighboring patches overlap in the
  decoded video, and errors of latents do not show as edges between patches.

  Attributes:
    basis: float32 [st * sh * sw * 3, C], orthonormal columns, in descending order of variance.
    mean: float32 [st * sh * sw * 3], the mean patch.
    scale: float32 [], factor from projected pixels to latents.
    patch: (st, sh, sw), pixels per latent along (time, height, width).
    lapped: whether neighboring patches of a frame overlap by half their sides.
    explained: fraction of the variance of the fitted patches that the components explain, 0..1.
    psnr: PSNR in dB of the reconstructed fitted patches, before clipping and rounding.
  """

  basis: Array
  mean: Array
  scale: Array
  patch: tuple[int, int, int] = flax.struct.field(pytree_node=False)
  explained: float = flax.struct.field(pytree_node=False)
  psnr: float = flax.struct.field(pytree_node=False)
  lapped: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def channels(self) -> int:
    return self.basis.shape[1]

  @property
  def stride(self) -> tuple[int, int]:
    return self.patch[1:]

  def num_frames(self, latents: int) -> int:
    return latents * self.patch[0]

  def frame_groups(self, num_frames: int) -> np.ndarray:
    return np.arange(num_frames) // self.patch[0]

  @classmethod
  def fit(
    cls,
    videos: Iterable[np.ndarray],
    patch: tuple[int, int, int] = (2, 6, 6),
    channels: int = 32,
    lapped: bool = False,
  ) -> 'LinearCodec':
    """Fit the components to videos; the covariance is accumulated in float64 on the host.

    Args:
      videos: uint8 [T, H, W, 3] each, of any sizes that divide into patches. Include rendered
        trajectories, since the codec encodes both.
      patch: pixels per latent along (time, height, width).
      channels: C, at most the number of values in a patch.
      lapped: whether neighboring patches overlap; needs patches of even height and width.

    Raises:
      InputError: there is no video, or a video is not uint8 or does not divide into patches. Also
        if `patch` or `channels` is out of range, or all patches are equal.
    """
    if min(patch) < 1:
      raise InputError(f'a patch {patch} holds no pixels: all of its sides must be at least 1')
    size = math.prod(patch) * 3
    if size > _LARGEST:
      raise InputError(
        f'a patch {patch} has {size} values: a linear codec of more than {_LARGEST} does not fit in'
        ' memory; make the patch smaller'
      )
    if not 1 <= channels <= size:
      raise InputError(f'a patch {patch} has {size} values: channels must be 1 to {size}')
    if lapped and (patch[1] % 2 or patch[2] % 2):
      raise InputError(f'a patch {patch} cannot be lapped: its height and width must be even')
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for video in videos:
      if video.dtype != np.uint8:
        raise InputError(f'videos to fit a codec must be uint8, got {video.dtype}')
      pixels = jnp.asarray(to_float(video))[None]
      check_pixels(pixels, patch[1:])
      patches = fold(_overlap(pixels, patch) if lapped else pixels, patch)
      rows = np.asarray(patches, np.float64).reshape(-1, size)
      count += len(rows)
      total += rows.sum(0)
      products += rows.T @ rows
    if not count:
      raise InputError('no videos to fit a codec to')
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    values, vectors = values[::-1].clip(0), vectors[:, ::-1][:, :channels]
    # The solver may return either sign of an eigenvector. Make the largest entry positive, so that
    # the result is deterministic.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(channels)])
    kept, lost = values[:channels].sum(), values[channels:].sum()
    if kept < 1e-12 * size:  # Below rounding error.
      raise InputError('the videos to fit a codec to are all of one constant patch')
    return cls(
      basis=jnp.asarray(vectors, jnp.float32),
      mean=jnp.asarray(mean, jnp.float32),
      scale=jnp.asarray(np.sqrt(channels / kept), jnp.float32),
      patch=patch,
      explained=float(kept / (kept + lost)),
      psnr=float(10 * np.log10(4 / max(lost / size, 1e-12))),  # The range [-1, 1] is 2 wide.
      lapped=lapped,
    )

  def encode(self, video: Array) -> Moments:
    check_pixels(video, self.stride)
    patches = fold(_overlap(video, self.patch) if self.lapped else video, self.patch)
    rows = patches.reshape(-1, patches.shape[-1]) - self.mean
    latents = jnp.dot(rows, self.basis, precision=_HIGHEST) * self.scale
    return Moments(latents.reshape(*patches.shape[:-1], self.channels))

  def decode(self, latents: Array, num_frames: int) -> Array:
    check_frames(latents, num_frames, self.patch[0])
    b, t, h, w, c = latents.shape
    rows = jnp.dot(latents.reshape(-1, c) / self.scale, self.basis.T, precision=_HIGHEST)
    video = unfold((rows + self.mean).reshape(b, t, h, w, -1), self.patch)
    video = _overlap(video, self.patch, inverse=True) if self.lapped else video
    return jnp.clip(video[:, :num_frames], -1, 1)


def folding(size: int) -> np.ndarray:
  """Return the orthogonal matrix that mixes the pixels around a border, float32 [size, size].

  Pixels at equal distance from the border, i + 1/2, are rotated by 45 degrees at the border down to
  0 half a patch away.

  Args:
    size: pixels on both sides together, an even number.
  """
  half = size // 2
  distance = np.arange(half)
  angle = np.pi / 4 * (1 - (distance + 0.5) / half)
  after, before = half + distance, half - 1 - distance
  matrix = np.zeros((size, size), np.float32)
  matrix[after, after] = matrix[before, before] = np.cos(angle)
  matrix[after, before], matrix[before, after] = -np.sin(angle), np.sin(angle)
  return matrix


def _overlap(video: Array, patch: tuple[int, int, int], inverse: bool = False) -> Array:
  """Mix the pixels of a video [B, T, H, W, 3] around the borders inside each frame, or undo it."""
  for axis, size in ((2, patch[1]), (3, patch[2])):
    matrix = folding(size).T if inverse else folding(size)
    lines = jnp.moveaxis(video, axis, -1)
    begin, inner, end = jnp.split(lines, [size // 2, lines.shape[-1] - size // 2], axis=-1)
    windows = inner.reshape(*inner.shape[:-1], -1, size)  # One around each border.
    mixed = jnp.einsum('...n,mn->...m', windows, matrix, precision=_HIGHEST)
    lines = jnp.concatenate([begin, mixed.reshape(inner.shape), end], axis=-1)
    video = jnp.moveaxis(lines, -1, axis)
  return video
