"""Tiled processing of long and large videos in bounded memory."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttm_jax.codecs.windows import windows


def in_pieces(function: Callable[[Tensor], Tensor], video: Tensor, size: int) -> Tensor:
  """Apply a function to consecutive pieces of a video, and concatenate the results along time.

  Args:
    function: maps [B, C, t, ...] to [B, D, t', ...].
    video: [B, C, T, ...].
    size: frames per piece; the last piece may be shorter.
  """
  return torch.cat([function(piece) for piece in video.split(size, 2)], 2)


def blended(
  function: Callable[[Tensor], Tensor],
  latents: Tensor,
  tile: Sequence[int],
  overlap: Sequence[int],
  factor: Sequence[int],
) -> Tensor:
  """Apply an upsampling function to overlapping tiles, and blend the results linearly.

  The weights of a pixel sum to 1, so where tiles agree, blending changes nothing. Memory holds the
  result and one tile.

  Args:
    function: maps [B, C, t, h, w] to float32 [B, D, t ft, h fh, w fw].
    latents: [B, C, T', H', W'].
    tile: size of a tile along (T', H', W'), limited to the size of the latents.
    overlap: overlap of neighboring tiles along each axis, smaller than the tile. The last tile ends
      at the end of the latents, and may overlap more.
    factor: upsampling factors (ft, fh, fw).

  Returns:
    float32 [B, D, T' ft, H' fh, W' fw].
  """
  sizes = latents.shape[2:]
  tile = [min(size, most) for size, most in zip(tile, sizes, strict=True)]
  if tuple(tile) == tuple(sizes):
    return function(latents)
  axes = [windows(*args) for args in zip(sizes, tile, overlap, factor, strict=True)]
  result = None
  for tiles in itertools.product(*(zip(*axis, strict=True) for axis in axes)):
    starts, weights = zip(*tiles, strict=True)
    part = function(latents[_box(starts, tile, (1, 1, 1))])
    for axis, weight in enumerate(weights):
      shape = [-1 if i == axis else 1 for i in range(3)]
      part = part * torch.as_tensor(weight, dtype=part.dtype, device=part.device).reshape(shape)
    if result is None:
      full = [size * f for size, f in zip(sizes, factor, strict=True)]
      result = part.new_zeros(*part.shape[:2], *full)
    result[_box(starts, tile, factor)] += part
  assert result is not None
  return result


def _box(starts, tile, factor) -> tuple:
  """Return the index of a tile of the latents in a tensor that is `factor` times as large."""
  sides = zip(starts, tile, factor, strict=True)
  return (..., *(slice(int(s) * f, (int(s) + size) * f) for s, size, f in sides))
