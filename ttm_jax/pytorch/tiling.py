"""Long and large videos through a network a tile at a time, in bounded memory."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttm_jax.codecs.windows import windows


def in_pieces(function: Callable[[Tensor], Tensor], video: Tensor, size: int) -> Tensor:
  """Applies a function to consecutive pieces of `size` frames [B, C, T, ...], joins the results."""
  return torch.cat([function(piece) for piece in video.split(size, 2)], 2)


def blended(
  function: Callable[[Tensor], Tensor],
  latents: Tensor,
  tile: Sequence[int],
  overlap: Sequence[int],
  factor: Sequence[int],
) -> Tensor:
  """Applies an enlarging function to overlapping tiles, and blends them linearly.

  Where all tiles agree, blending changes nothing. Memory holds one tile beside the result.

  Args:
    function: [B, C, t, h, w] to float32 [B, D, t ft, h fh, w fw].
    latents: [B, C, T', H', W'].
    tile: extent of a tile along (T', H', W'), cut to that of the latents.
    overlap: what two neighbours share along each, less than the tile. The last tile is moved back
      to end where the latents end and may share more.
    factor: (ft, fh, fw).

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
  """The index of a tile in what a tile of the latents becomes, `factor` times as large."""
  sides = zip(starts, tile, factor, strict=True)
  return (..., *(slice(int(s) * f, (int(s) + size) * f) for s, size, f in sides))
