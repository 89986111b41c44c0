"""Fold the pixels of space-time patches into channels, and back."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array
Patch = tuple[int, int, int]


def fold(video: Array, patch: Patch) -> Array:
  """Fold patches into channels.

  A video whose length is not a multiple of the patch is padded with its last frame.

  Args:
    video: [B, T, H, W, C]; H and W are multiples of the patch.
    patch: (st, sh, sw), pixels per cell along (time, height, width).

  Returns:
    [B, ceil(T / st), H / sh, W / sw, st * sh * sw * C].
  """
  st, sh, sw = patch
  video = jnp.pad(video, ((0, 0), (0, -video.shape[1] % st), *[(0, 0)] * 3), mode='edge')
  b, t, h, w, c = video.shape
  cells = video.reshape(b, t // st, st, h // sh, sh, w // sw, sw, c)
  return cells.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t // st, h // sh, w // sw, -1)


def unfold(cells: Array, patch: Patch) -> Array:
  """Invert `fold`: [B, T', H', W', st * sh * sw * C] to [B, T' * st, H' * sh, W' * sw, C]."""
  st, sh, sw = patch
  b, t, h, w, values = cells.shape
  pixels = cells.reshape(b, t, h, w, st, sh, sw, values // math.prod(patch))
  pixels = pixels.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return pixels.reshape(b, t * st, h * sh, w * sw, -1)
