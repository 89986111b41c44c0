"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) over the axes of a video."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ttm_jax.ops.object_attention import sort

Array = jax.Array


@flax.struct.dataclass
class Rotation:
  """The cosine and sine of the rotation angle of each channel pair at each token.

  Attributes:
    cos, sin: float32 [N, D / 2] or [B, N, D / 2], where D is the head dimension.
  """

  cos: Array
  sin: Array

  def sorted(self, order: Array) -> 'Rotation':
    """Return the rotation of tokens in another order, int32 [B, N]; see `sort`."""

    def moved(table: Array) -> Array:
      return sort(jnp.broadcast_to(table, (*order.shape, table.shape[-1])), order)

    return Rotation(moved(self.cos), moved(self.sin))


def grid_rotation(
  grid: tuple[int, int, int], channels: Sequence[int], theta: float = 10_000.0
) -> Rotation:
  """Return the rotation of the tokens of a video in raster order.

  Args:
    grid: tokens (t, h, w).
    channels: number of channels of a head rotated by t, by h and by w; even numbers.
    theta: base of the frequencies; pair i of n channels rotates by theta^(-2 i / n) per token.
  """
  tables = []
  for axis, (size, n) in enumerate(zip(grid, channels, strict=True)):
    # In float64, because the angles of long videos lose digits in float32.
    angles = np.arange(size)[:, None] * theta ** (-np.arange(0, n, 2) / n)
    shape = [1, 1, 1, n // 2]
    shape[axis] = size
    tables.append(np.broadcast_to(angles.reshape(shape), (*grid, n // 2)))
  angles = np.concatenate(tables, -1).reshape(-1, sum(channels) // 2)
  return Rotation(
    jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)
  )


def rotate(x: Array, rotation: Rotation) -> Array:
  """Rotate each pair of neighboring channels (2 i, 2 i + 1) of x [B, N, H, D] by its angle."""
  cos, sin = (a[..., None, :] for a in (rotation.cos, rotation.sin))
  even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
  turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
  return turned.reshape(x.shape).astype(x.dtype)
