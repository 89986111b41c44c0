"""2-D convolutions over the frames of a video."""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.linear import uniform_init

Array = jax.Array


class Conv(nnx.Module):
  """A 3 x 3 convolution of each frame, padded with one pixel of zeros on every side.

  Attributes:
    kernel: float32 [3, 3, in, out].
    bias: float32 [out], or None.
    dtype: compute dtype.
    stride: 1, or 2 to halve height and width.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
    stride: int = 1,
    bias: bool = True,
    init=uniform_init,
  ):
    self.kernel = nnx.Param(init(rngs.params(), (3, 3, d_in, d_out), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None
    self.dtype, self.stride = dtype, stride

  def __call__(self, x: Array) -> Array:
    """Convolve x [B, T, H, W, in]; return [B, T, H / stride, W / stride, out] in `dtype`."""
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype).reshape(-1, *x.shape[2:]),
      self.kernel[...].astype(self.dtype),
      window_strides=(self.stride, self.stride),
      padding=((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    if self.bias is not None:
      y = y + self.bias[...].astype(self.dtype)
    return y.reshape(*x.shape[:2], *y.shape[1:])
