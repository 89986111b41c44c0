"""RMSNorm, LayerNorm and gated residual with custom VJPs, for factors per layer or per sample.

The gradient of such a factor is a sum over tokens. By default, XLA for GPUs fuses this sum with the
elementwise output for each token. The fused kernel takes twice as long as two separate kernels. For
a modulated norm, XLA also computes the sum twice. The VJPs here compute one sum per array, and on
GPUs run it in a separate kernel.
"""

import functools

import jax
import jax.numpy as jnp

from ttm_jax.parallel.mesh import platform

Array = jax.Array


def rms_norm(x: Array, factor: Array, shift: Array, eps: float) -> Array:
  """Return x / rms(x) * factor + shift over the last axis; computed in float32, in the dtype of x.

  Args:
    x: [..., d].
    factor: float32 [d], or of the rank of x with size 1 on each axis that shares it, as in
      [B, 1, d].
    shift: float32, of such a shape or [].
    eps: added to the mean square.
  """
  return _norm(x, factor, shift, eps, False)


def layer_norm(x: Array, factor: Array, shift: Array, eps: float) -> Array:
  """Return (x - mean(x)) / std(x) * factor + shift over the last axis; see `rms_norm`."""
  return _norm(x, factor, shift, eps, True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x: Array, factor: Array, shift: Array, eps: float, center: bool) -> Array:
  return _norm_forward(x, factor, shift, eps, center)[0]


def _norm_forward(
  x: Array, factor: Array, shift: Array, eps: float, center: bool
) -> tuple[Array, tuple]:
  normed, *_ = _normed(x, eps, center)
  return (normed * factor + shift).astype(x.dtype), (x, factor, shift)


def _norm_backward(eps: float, center: bool, saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
  x, factor, shift = saved
  normed, scale, mean = _normed(x, eps, center)
  inner = dy.astype(jnp.float32) * factor
  dx = inner - normed * jnp.mean(inner * normed, -1, keepdims=True)
  if center:
    dx = dx - jnp.mean(inner, -1, keepdims=True)
  if x.ndim == 3:  # Rows over a single head are short, so the fused sum costs nothing.
    apart, dy, factor_of_x, mean = _apart(x, dy, scale, mean)
    normed = (apart.astype(jnp.float32) - mean) * factor_of_x
  dy = dy.astype(jnp.float32)
  return (scale * dx).astype(x.dtype), _sum(dy * normed, factor), _sum(dy, shift)


def _normed(x: Array, eps: float, center: bool) -> tuple[Array, Array, Array]:
  """Return (x - mean) * scale, scale and mean, float32; the mean is 0 without `center`."""
  x = x.astype(jnp.float32)
  mean = jnp.mean(x, -1, keepdims=True) if center else jnp.zeros(())
  x = x - mean
  scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
  return x * scale, scale, mean


def _apart(*arrays: Array) -> tuple[Array, ...]:
  """Keep XLA for GPUs from fusing a sum over these arrays; a no-op on TPUs and CPUs."""
  return jax.lax.optimization_barrier(arrays) if platform() == 'gpu' else arrays


def _sum(gradient: Array, like: Array) -> Array:
  """Sum a gradient over the axes along which `like` was broadcast."""
  shape = (1,) * (gradient.ndim - like.ndim) + like.shape
  return gradient.sum([i for i, size in enumerate(shape) if size == 1]).reshape(like.shape)


_norm.defvjp(_norm_forward, _norm_backward)


@jax.custom_vjp
def gated_residual(h: Array, y: Array, gate: Array) -> Array:
  """Return h + gate * y in the dtype of h; computed in float32.

  Args:
    h: [B, N, d].
    y: [B, N, d].
    gate: float32 [B, 1, d] or [B, N, d].
  """
  return (h.astype(jnp.float32) + gate * y.astype(jnp.float32)).astype(h.dtype)


def _gated_residual_backward(saved: tuple, dh: Array) -> tuple[Array, Array, Array]:
  y, gate = saved
  dy = gate * dh.astype(jnp.float32)
  (apart,) = _apart(dh)
  dgate = _sum(apart.astype(jnp.float32) * y.astype(jnp.float32), gate)
  return dh, dy.astype(y.dtype), dgate


gated_residual.defvjp(
  lambda h, y, gate: (gated_residual(h, y, gate), (y, gate)), _gated_residual_backward
)
