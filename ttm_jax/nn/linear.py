"""Linear layers, and matrix products with fast or exact weight gradients.

Parameters are float32. A product runs in the compute dtype of its layer.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.nn.initial import initializer

Array = jax.Array

normal_init = initializer(nnx.initializers.normal(0.02))
zeros_init = nnx.initializers.zeros_init()
# Keeps the variance of inputs of unit variance (LeCun).
lecun_init = initializer(nnx.initializers.lecun_normal())
# Uniform in +-1 / sqrt(fan_in), PyTorch's default.
uniform_init = initializer(nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform'))


class Linear(nnx.Module):
  """y = x W (+ b) over the last axis, with a low-rank adapter if `nn.lora` attached one.

  Attributes:
    kernel: float32 [in, out]; a frozen kernel may be bfloat16.
    bias: float32 [out], or None.
    dtype: compute dtype of the product and of y.
    lora_a, lora_b: the adapter, float32 [in, rank] and [rank, out]; None without one.
    lora_scale: factor of the adapter's product.
    lora_dropout: share of the adapter's inputs that are dropped if there is a `lora_key`.
    lora_key: random key of the inputs to drop; None outside of training.
  """

  lora_a: nnx.Param | None = None
  lora_b: nnx.Param | None = None
  lora_scale: float = 1.0
  lora_dropout: float = 0.0
  lora_key: nnx.Variable | None = None

  def __init__(
    self, d_in: int, d_out: int, *, rngs: nnx.Rngs, dtype=jnp.float32, bias=False, init=normal_init
  ):
    self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out), jnp.float32))
    self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if bias else None
    self.dtype = dtype

  def __call__(self, x: Array) -> Array:
    """Map x [..., in] to [..., out] in `dtype`."""
    x = x.astype(self.dtype)
    y = matmul(x, self.kernel[...])
    if self.lora_a is not None and self.lora_b is not None:
      y = y + matmul(self.lora_scale * matmul(self._dropped(x), self.lora_a[...]), self.lora_b[...])
    return y if self.bias is None else y + self.bias[...].astype(self.dtype)

  def _dropped(self, x: Array) -> Array:
    """Return the inputs of the adapter: some of them zero, the others scaled up."""
    if self.lora_key is None:
      return x
    kept = 1 - self.lora_dropout
    return jnp.where(jax.random.bernoulli(self.lora_key[...], kept, x.shape), x / kept, 0)


def with_cast_kernels(module: nnx.Module) -> nnx.Module:
  """Return a copy of a module whose Linear kernels are cast to a narrower compute dtype.

  Use it before a loop over layers. Otherwise every iteration casts its kernels, the backward pass
  casts them again, and the gradients of all layers are stored in float32. Under `exact_gradients`
  it returns the module unchanged.
  """
  if _exact_gradients.get():
    return module
  copy = nnx.clone(module)
  for _, part in nnx.iter_modules(copy):
    # Frozen bfloat16 kernels of a layer that computes in float32 are cast layer by layer.
    if isinstance(part, Linear) and part.kernel.dtype.itemsize > jnp.dtype(part.dtype).itemsize:
      part.kernel.set_value(part.kernel[...].astype(part.dtype))
  return copy


def matmul(x: Array, w: Array) -> Array:
  """Return x [..., in] times w [in, out], in the dtype of x.

  The leading axes are flattened first. The gradient of w is then one plain matrix product, which
  the CPU backend runs 2.6 times faster. A sharded sequence keeps its axes, since a merged axis
  cannot carry both shardings.
  """
  exact = _exact_gradients.get()

  def product(x):
    return _product(x, w) if exact else x @ w.astype(x.dtype)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.shape.get('sequence', 1) > 1:
    return product(x)
  return product(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], w.shape[-1])


_exact_gradients = contextvars.ContextVar('exact_gradients', default=False)


@contextlib.contextmanager
def exact_gradients(exact: bool = True) -> Iterator[None]:
  """Within this context, do not round weight gradients to the compute dtype before the all-reduce.

  Gradients are then summed over devices and microbatches in float32, at twice the bytes. Otherwise
  each device rounds its own gradient, and the sum runs in the compute dtype.
  """
  token = _exact_gradients.set(exact)
  try:
    yield
  finally:
    _exact_gradients.reset(token)


@jax.custom_vjp
def _product(x: Array, w: Array) -> Array:
  return x @ w.astype(x.dtype)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  x, w = saved
  rows = tuple(range(x.ndim - 1))
  dw = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())), preferred_element_type=w.dtype)
  return dy @ w.astype(x.dtype).T, dw


_product.defvjp(lambda x, w: (_product(x, w), (x, w)), _product_backward)
