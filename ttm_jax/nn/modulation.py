"""Norms and residuals whose factors belong to a layer or a sample, with gradients of their own.

Of such a factor the gradient is a sum over tokens. Left to itself the compiler for GPUs fuses it
with what is written for each token, into a kernel that takes twice as long as two would; and a norm
that is modulated it sums twice. Here it is one sum for each array, on GPUs a kernel of its own.
"""

import functools

import jax
import jax.numpy as jnp

from ttm_jax.parallel.mesh import platform

Array = jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def rms_norm(x: Array, factor: Array, shift: Array, eps: float) -> Array:
  """x / rms(x) * factor + shift over the last axis, in float32.

  Args:
    x: [..., d].
    factor: float32 [d], or one axis of size 1 for each that the sum goes over, as in [B, 1, d].
    shift: float32, of such a shape or [].
    eps: added to the mean square.
  """
  return _norm_forward(x, factor, shift, eps)[0]


def _norm_forward(x: Array, factor: Array, shift: Array, eps: float) -> tuple[Array, tuple]:
  normed, _ = _normed(x, eps)
  return (normed * factor + shift).astype(x.dtype), (x, factor, shift)


def _norm_backward(eps: float, saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
  x, factor, shift = saved
  normed, scale = _normed(x, eps)
  inner = dy.astype(jnp.float32) * factor
  dx = scale * (inner - normed * jnp.mean(inner * normed, -1, keepdims=True))
  if x.ndim == 3:  # Over heads the rows are short, and a sum costs its kernel nothing.
    apart, dy, scale = _apart(x, dy, scale)
    normed = apart.astype(jnp.float32) * scale
  dy = dy.astype(jnp.float32)
  return dx.astype(x.dtype), _sum(dy * normed, factor), _sum(dy, shift)


def _normed(x: Array, eps: float) -> tuple[Array, Array]:
  x = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
  return x * scale, scale


def _apart(*arrays: Array) -> tuple[Array, ...]:
  """For a sum that shall not share a kernel; to compilers for TPUs and CPUs it is all the same."""
  return jax.lax.optimization_barrier(arrays) if platform() == 'gpu' else arrays


def _sum(gradient: Array, like: Array) -> Array:
  """Summed over the axes along which an array was broadcast."""
  shape = (1,) * (gradient.ndim - like.ndim) + like.shape
  return gradient.sum([i for i, size in enumerate(shape) if size == 1]).reshape(like.shape)


rms_norm.defvjp(_norm_forward, _norm_backward)


@jax.custom_vjp
def gated_residual(h: Array, y: Array, gate: Array) -> Array:
  """The residual h + gate y, in float32; h and y [B, N, d], gate float32 [B, 1, d]."""
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
