"""Low-rank adapters (LoRA) of linear layers: Hu et al. 2021, arXiv 2106.09685.

An adapted layer computes y = x W + alpha / rank * dropout(x) A B. The kernel W is frozen; A, [in,
rank], is uniform in +-1 / sqrt(in) as in PEFT, and B, [rank, out], is zero. At the start, the
network therefore computes what it computes without adapters.
"""

import dataclasses
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.errors import InputError
from ttm_jax.nn.linear import Linear, uniform_init

Array = jax.Array

A, B = 'lora_a', 'lora_b'  # Names of the two parameters of an adapted layer.

# Dtypes in which frozen kernels may be stored.
DTYPES = {'bfloat16': jnp.bfloat16, 'float32': jnp.float32}

# Sharding rules of adapters: along the wide axis, which is that of the kernel.
SHARDING = (
  (rf'{A}$', (None, 'fsdp', None)),
  (rf'{B}$', (None, None, 'fsdp')),
  (rf'{A}$', ('fsdp', None)),
  (rf'{B}$', (None, 'fsdp')),
)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
  """Settings of the adapters.

  Attributes:
    rank: rank of the adapters; 0 trains all parameters, without adapters.
    alpha: the product of the adapter is scaled by alpha / rank.
    dropout: share of the inputs of an adapter that are set to zero in training.
    targets: regular expressions, searched in the paths of linear layers; the layers to adapt. If
      empty, those of the preset.
    base_dtype: dtype in which frozen kernels are stored, 'bfloat16' or 'float32'.

  Raises:
    ValueError: if a field is out of range.
  """

  rank: int = 0
  alpha: float = 16.0
  dropout: float = 0.0
  targets: tuple[str, ...] = ()
  base_dtype: str = 'bfloat16'

  def __post_init__(self):
    if self.rank < 0:
      raise ValueError(f'rank must be 0 (no adapters) or above, got {self.rank}')
    if self.alpha <= 0:
      raise ValueError(f'alpha must be above 0, got {self.alpha}')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be at least 0 and below 1, got {self.dropout}')
    if self.base_dtype not in DTYPES:
      raise ValueError(f'base_dtype must be one of {list(DTYPES)}, got {self.base_dtype!r}')
    for pattern in self.targets:
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(f'targets: {pattern!r} is no regular expression ({error})') from error

  @property
  def scale(self) -> float:
    """The factor of the product A B."""
    return self.alpha / self.rank


def attach(
  model: nnx.Module, config: LoRAConfig, targets: Iterable[str], excluded: str, seed: int
) -> None:
  """Give linear layers of a network their adapters, in place.

  Args:
    model: the network. Layers may be stacked: kernels [..., in, out].
    config: settings of the adapters; the rank is above 0.
    targets: regular expressions, searched in the paths of layers.
    excluded: regular expression of the paths of parts that are trained in full.
    seed: of the initial values of A.

  Raises:
    InputError: if an expression is found in no path.
  """
  root = jax.random.key(seed)
  layers = [(name, x) for name, x in _layers(model) if not re.search(excluded, name)]
  for pattern in targets:
    if not any(re.search(pattern, name) for name, _ in layers):
      raise InputError(
        f'config.lora.targets: no linear layer has "{pattern}" in its path; there are, for example,'
        f' {", ".join(name for name, _ in layers[:3])}'
      )
  for name, layer in layers:
    if any(re.search(pattern, name) for pattern in targets):
      *outer, d_in, d_out = layer.kernel.shape
      stack = tuple(outer)
      keys = jax.random.split(jax.random.fold_in(root, zlib.crc32(name.encode())), stack)

      def draw(key, shape=(d_in, config.rank)):
        return uniform_init(key, shape, jnp.float32)

      for _ in stack:
        draw = jax.vmap(draw)
      layer.lora_a = nnx.Param(draw(keys))
      layer.lora_b = nnx.Param(jnp.zeros((*stack, config.rank, d_out), jnp.float32))
      layer.lora_scale, layer.lora_dropout = config.scale, config.dropout


def add_dropout(model: nnx.Module, key: Array) -> None:
  """Let the adapters of a network drop inputs, in place; inside jit.

  Each layer gets its own key as a variable, so that layers under scan draw different masks, and
  rematerialization draws the same mask again.

  Args:
    model: the network.
    key: the random key of this step.
  """
  for number, (_, layer) in enumerate(_layers(model)):
    if layer.lora_a is not None and layer.lora_dropout:
      stack = layer.lora_a.shape[:-2]
      layer.lora_key = nnx.Variable(jax.random.split(jax.random.fold_in(key, number), stack))


def is_adapter(name: str) -> bool:
  """Return whether a dotted path is that of an adapter's parameter."""
  return name.rpartition('.')[2] in (A, B)


def frozen(model: nnx.Module, trained: str, compute: str, base_dtype: str) -> dict[str, Any]:
  """Return the parameters that an adapted network does not train.

  Args:
    model: the network, with or without adapters.
    trained: regular expression of the paths of parts that are trained in full.
    compute: compute dtype of the network.
    base_dtype: dtype of frozen kernels, a name in `DTYPES`. Kernels of layers that compute in
      another dtype (those that must be exact), and all other parameters, are float32.

  Returns:
    The dtype in which each parameter is stored, by dotted path.
  """
  kernels = {
    f'{_dotted(path)}.kernel'
    for path, part in nnx.iter_modules(model)
    if isinstance(getattr(part, 'kernel', None), nnx.Param)
    and jnp.dtype(getattr(part, 'dtype', jnp.float32)) == jnp.dtype(compute)
  }
  names = (_dotted(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)))
  return {
    name: DTYPES[base_dtype] if name in kernels else jnp.float32
    for name in names
    if not is_adapter(name) and not re.search(trained, name)
  }


def merged(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
  """Return the kernel of the plain layer that computes the same: W + scale * A B, float32.

  Args:
    kernel: [..., in, out].
    a: [..., in, rank].
    b: [..., rank, out].
    scale: alpha / rank.
  """
  return kernel + np.matmul(a * np.float32(scale), b)


def _layers(model: nnx.Module) -> Iterator[tuple[str, Linear]]:
  """Yield the paths and the linear layers of a network, in the order of their paths."""
  found = {_dotted(path): part for path, part in nnx.iter_modules(model)}
  for name, part in sorted(found.items()):
    if isinstance(part, Linear):
      yield name, part


def _dotted(path: Iterable[Any]) -> str:
  return '.'.join(map(str, path))
