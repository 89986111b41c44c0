"""Apply a network to a long or large video one tile at a time, in bounded memory."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.codecs.windows import windows

Array = jax.Array


def in_pieces(function: Callable[[Array], Array], video: Array, size: int) -> Array:
  """Apply a function to consecutive pieces of `size` frames, sequentially.

  Args:
    function: maps [B, t, ...] to [B, t', ...].
    video: [B, T, ...].
    size: frames per piece; the last piece may be shorter.

  Returns:
    The results, concatenated along axis 1.
  """
  whole = video.shape[1] // size
  if video.shape[1] <= size:
    return function(video)
  pieces = video[:, : whole * size]
  pieces = pieces.reshape(video.shape[0], whole, size, *video.shape[2:]).swapaxes(0, 1)
  mapped = jax.lax.map(function, pieces).swapaxes(0, 1)
  results = [mapped.reshape(mapped.shape[0], -1, *mapped.shape[3:])]
  if video.shape[1] % size:
    results.append(function(video[:, whole * size :]))
  return jnp.concatenate(results, axis=1)


def blended(
  function: Callable[[Array], Array],
  latents: Array,
  tile: tuple[int, int, int],
  overlap: tuple[int, int, int],
  factor: tuple[int, int, int],
) -> Array:
  """Apply an upsampling function to overlapping tiles, and blend the results linearly.

  Where overlapping tiles agree, blending changes nothing. A sequential loop computes the tiles, so
  memory holds one tile and the full result.

  Args:
    function: maps [B, t, h, w, C] to float32 [B, t * ft, h * fh, w * fw, D]. All tiles have the
      same shape.
    latents: [B, T', H', W', C].
    tile: (t, h, w), the size of a tile, clipped to the size of the latents.
    overlap: overlap of neighboring tiles along each axis, less than the tile. The last tile ends at
      the end of the latents and may overlap more.
    factor: (ft, fh, fw), upsampling factors. If a tile has all T' frames, ft is not used: the
      function may then return any number of frames.

  Returns:
    float32 [B, T' * ft, H' * fh, W' * fw, D].
  """
  sizes = latents.shape[1:4]
  tile = (min(tile[0], sizes[0]), min(tile[1], sizes[1]), min(tile[2], sizes[2]))
  if tile == sizes:
    return function(latents)
  shape = jax.eval_shape(function, latents[:, : tile[0], : tile[1], : tile[2]]).shape
  axes = [windows(*args) for args in zip(sizes, tile, overlap, factor, strict=True)]
  full = [size * f for size, f in zip(sizes, factor, strict=True)]
  if tile[0] == sizes[0]:
    axes[0], full[0] = (np.zeros(1, int), np.ones((1, shape[1]))), shape[1]
  places = list(itertools.product(*[range(len(starts)) for starts, _ in axes]))
  chosen = [np.array(index) for index in zip(*places, strict=True)]
  starts = np.stack([axis[0][index] for axis, index in zip(axes, chosen, strict=True)], 1)
  weights = tuple(
    jnp.asarray(axis[1][index], jnp.float32) for axis, index in zip(axes, chosen, strict=True)
  )

  def add(result, of_tile):
    start, (wt, wh, ww) = of_tile
    begin = (0, start[0], start[1], start[2], 0)
    part = jax.lax.dynamic_slice(latents, begin, (latents.shape[0], *tile, latents.shape[4]))
    weight = wt[:, None, None, None] * wh[:, None, None] * ww[:, None]
    begin = (0, *[start[i] * factor[i] for i in range(3)], 0)
    there = jax.lax.dynamic_slice(result, begin, shape)
    return jax.lax.dynamic_update_slice(result, there + weight * function(part), begin), None

  empty = jnp.zeros((shape[0], *full, shape[4]), jnp.float32)
  return jax.lax.scan(add, empty, (jnp.asarray(starts), weights))[0]
