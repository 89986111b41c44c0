"""Map the linear codec to its PyTorch counterpart (`ttm_jax.pytorch.linear`) and back."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.pretrained.fields import Read, check, sizes
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import Weights


def table(patch: Sequence[int], channels: int) -> list[Entry]:
  """Return the name table of a linear codec: its arrays are the same in PyTorch."""
  size = 3 * math.prod(patch)
  shapes = {'basis': (size, channels), 'mean': (size,), 'scale': ()}
  return [Entry((name,), (name,), shape, 'same') for name, shape in shapes.items()]


def parameters(codec: LinearCodec) -> dict[str, Any]:
  """Return its arrays by name."""
  return {'basis': codec.basis, 'mean': codec.mean, 'scale': codec.scale}


def config_to_torch(codec: LinearCodec) -> dict[str, Any]:
  """Return the constructor arguments of `TTMLinearCodec`; `codec.json` holds the same."""
  return {
    'patch': codec.patch,
    'channels': codec.channels,
    'explained': codec.explained,
    'psnr': codec.psnr,
  }


@dataclasses.dataclass(frozen=True)
class _Fields:
  """The fields of `TTMLinearCodec`."""

  patch: tuple[int, int, int]
  channels: int
  explained: float
  psnr: float


def from_torch(weights: Weights) -> LinearCodec:
  """Return the codec of a folder that holds a `TTMLinearCodec`.

  Raises:
    InputError: naming a field or tensor that is missing, of another kind, or without a place.
  """
  names = {f.name: f.name for f in dataclasses.fields(_Fields)}
  check(weights.folder, weights.config, dict.fromkeys(names, Read()))
  config = sizes(_Fields, weights.folder, weights.config, names, len(weights.tensors))
  params = import_parameters(table(config.patch, config.channels), weights)
  return LinearCodec(
    **jax.tree.map(jnp.asarray, params),
    patch=config.patch,
    explained=config.explained,
    psnr=config.psnr,
  )
