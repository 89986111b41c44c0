"""Feed-forward networks: SwiGLU (Llama 3), GEGLU (Stable Diffusion) and MLP (Wan)."""

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.linear import Linear, normal_init, uniform_init

Array = jax.Array


class SwiGLU(nnx.Module):
  """The feed-forward network of Llama 3: (silu(x W1) * x W3) W2, without biases."""

  def __init__(self, d: int, hidden: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
    self.gate = Linear(d, hidden, rngs=rngs, dtype=dtype)
    self.up = Linear(d, hidden, rngs=rngs, dtype=dtype)
    self.down = Linear(hidden, d, rngs=rngs, dtype=dtype)

  def __call__(self, x: Array) -> Array:
    """Map x [..., d] to [..., d]."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class GEGLU(nnx.Module):
  """The feed-forward network (x W1 * gelu(x W2)) W3, with hidden width 4 d and biases."""

  def __init__(self, d: int, *, rngs: nnx.Rngs, dtype):
    self.up = Linear(d, 8 * d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.down = Linear(4 * d, d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)

  def __call__(self, x: Array) -> Array:
    """Map x [..., d] to [..., d]."""
    value, gate = jnp.split(self.up(x), 2, -1)
    return self.down(value * gelu(gate))


class MLP(nnx.Module):
  """gelu(x W1 + b1) W2 + b2, with the tanh approximation of GELU."""

  def __init__(
    self,
    d_in: int,
    hidden: int,
    d_out: int,
    *,
    rngs: nnx.Rngs,
    dtype=jnp.float32,
    init=normal_init,
  ):
    self.up = Linear(d_in, hidden, rngs=rngs, dtype=dtype, bias=True, init=init)
    self.down = Linear(hidden, d_out, rngs=rngs, dtype=dtype, bias=True, init=init)

  def __call__(self, x: Array) -> Array:
    """Map x [..., d_in] to [..., d_out]."""
    return self.down(jax.nn.gelu(self.up(x), approximate=True))


def gelu(x: Array) -> Array:
  """Return the exact GELU, x * Phi(x), of an array of any shape; computed in float32 as in PyTorch.

  `jax.nn.gelu(approximate=False)` gives the same values through erfc, which the compiler expands
  into about sixty instructions.
  """
  y = x.astype(jnp.float32)
  return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)
