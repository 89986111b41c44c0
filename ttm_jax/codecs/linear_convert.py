"""Convert the linear codec to its PyTorch counterpart (`ttm_jax.pytorch.linear`) and back."""

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
  """Return the name table of a linear codec; names and layouts are the same in PyTorch.

  Args:
    patch: pixels per latent along (time, height, width).
    channels: number of latent channels C.
  """
  size = 3 * math.prod(patch)
  shapes = {'basis': (size, channels), 'mean': (size,), 'scale': ()}
  return [Entry((name,), (name,), shape, 'same') for name, shape in shapes.items()]


def parameters(codec: LinearCodec) -> dict[str, Any]:
  """Return the arrays of a linear codec by name."""
  return {'basis': codec.basis, 'mean': codec.mean, 'scale': codec.scale}


def config_to_torch(codec: LinearCodec) -> dict[str, Any]:
  """Return the constructor arguments of `TTMLinearCodec`, which are also those of `codec.json`."""
  return {
    'patch': codec.patch,
    'channels': codec.channels,
    'explained': codec.explained,
    'psnr': codec.psnr,
    'lapped': codec.lapped,
  }


@dataclasses.dataclass(frozen=True)
class _Fields:
  """Configuration fields of `TTMLinearCodec`."""

  patch: tuple[int, int, int]
  channels: int
  explained: float
  psnr: float
  lapped: bool = False  # Folders of earlier versions do not have it.


def from_torch(weights: Weights) -> LinearCodec:
  """Return the linear codec of an exported `TTMLinearCodec`.

  Args:
    weights: configuration and tensors of the exported folder.

  Raises:
    InputError: a field or tensor is missing, unknown, or of the wrong type or shape.
  """
  names = {f.name: f.name for f in dataclasses.fields(_Fields)}
  check(weights.folder, weights.config, dict.fromkeys(names, Read()))
  if 'lapped' not in weights.config:
    del names['lapped']
  config = sizes(_Fields, weights.folder, weights.config, names, len(weights.tensors))
  params = import_parameters(table(config.patch, config.channels), weights)
  return LinearCodec(
    **jax.tree.map(jnp.asarray, params),
    patch=config.patch,
    explained=config.explained,
    psnr=config.psnr,
    lapped=config.lapped,
  )
