"""The linear codec: principal components of space-time patches, fitted in seconds, not trained."""

import math
from collections.abc import Iterable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.codecs.base import Moments, check_frames, check_pixels, to_float
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

  Attributes:
    basis: float32 [st * sh * sw * 3, C], orthonormal columns, in descending order of variance.
    mean: float32 [st * sh * sw * 3], the mean patch.
    scale: float32 [], factor from projected pixels to latents.
    patch: (st, sh, sw), pixels per latent along (time, height, width).
    explained: fraction of the variance of the fitted patches that the components explain, 0..1.
    psnr: PSNR in dB of the reconstructed fitted patches, before clipping and rounding.
  """

  basis: Array
  mean: Array
  scale: Array
  patch: tuple[int, int, int] = flax.struct.field(pytree_node=False)
  explained: float = flax.struct.field(pytree_node=False)
  psnr: float = flax.struct.field(pytree_node=False)

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
  ) -> 'LinearCodec':
    """Fit the components to videos; the covariance is accumulated in float64 on the host.

    Args:
      videos: uint8 [T, H, W, 3] each, of any sizes that divide into patches. Include rendered
        trajectories, since the codec encodes both.
      patch: pixels per latent along (time, height, width).
      channels: C, at most the number of values in a patch.

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
    count, total, products = 0, np.zeros(size), np.zeros((size, size))
    for video in videos:
      if video.dtype != np.uint8:
        raise InputError(f'videos to fit a codec must be uint8, got {video.dtype}')
      pixels = jnp.asarray(to_float(video))[None]
      check_pixels(pixels, patch[1:])
      patches = _patches(pixels, patch)
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
    )

  def encode(self, video: Array) -> Moments:
    check_pixels(video, self.stride)
    patches = _patches(video, self.patch)
    rows = patches.reshape(-1, patches.shape[-1]) - self.mean
    latents = jnp.dot(rows, self.basis, precision=_HIGHEST) * self.scale
    return Moments(latents.reshape(*patches.shape[:-1], self.channels))

  def decode(self, latents: Array, num_frames: int) -> Array:
    check_frames(latents, num_frames, self.patch[0])
    b, t, h, w, c = latents.shape
    st, sh, sw = self.patch
    rows = jnp.dot(latents.reshape(-1, c) / self.scale, self.basis.T, precision=_HIGHEST)
    patches = (rows + self.mean).reshape(b, t, h, w, st, sh, sw, 3)
    video = patches.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, t * st, h * sh, w * sw, 3)
    return jnp.clip(video[:, :num_frames], -1, 1)


def _patches(video: Array, patch: tuple[int, int, int]) -> Array:
  """Split a video [B, T, H, W, 3] into patches [B, T', H', W', st * sh * sw * 3]."""
  st, sh, sw = patch
  video = jnp.pad(video, ((0, 0), (0, -video.shape[1] % st), *[(0, 0)] * 3), mode='edge')
  b, t, h, w, _ = video.shape
  cells = video.reshape(b, t // st, st, h // sh, sh, w // sw, sw, 3)
  return cells.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t // st, h // sh, w // sw, -1)
