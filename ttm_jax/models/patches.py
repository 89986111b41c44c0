"""Division of latents into tokens of p x q latents, and back."""

import jax
from einops import rearrange

from ttm_jax.errors import InputError

Array = jax.Array


def patches(x: Array, patch: tuple[int, int]) -> Array:
  """Flatten latents [B, T', H', W', C] to tokens [B, N, p q C] in raster order."""
  p, q = patch
  return rearrange(x, 'b t (h p) (w q) c -> b (t h w) (p q c)', p=p, q=q)


def from_patches(tokens: Array, latents: tuple[int, int, int], patch: tuple[int, int]) -> Array:
  """Invert `patches`: tokens [B, N, p q C] to latents [B, T', H', W', C] of the given size."""
  (frames, height, width), (p, q) = latents, patch
  return rearrange(
    tokens,
    'b (t h w) (p q c) -> b t (h p) (w q) c',
    t=frames,
    h=height // p,
    w=width // q,
    p=p,
    q=q,
  )


def token_grid(height: int, width: int, patch: tuple[int, int]) -> tuple[int, int]:
  """Return the token grid (h, w) of latents (H', W').

  Raises:
    InputError: if the latents do not divide into tokens.
  """
  p, q = patch
  if height % p or width % q:
    raise InputError(
      f'latents of {height} x {width} do not divide into tokens of {p} x {q}: choose another'
      ' size of the clips, or another codec'
    )
  return height // p, width // q
