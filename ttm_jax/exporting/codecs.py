"""Codecs as PyTorch has them: class, configuration and tensors."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from flax import nnx

from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.sd_vae import SDVAE
from ttm_jax.codecs.tae import TAE
from ttm_jax.errors import InputError
from ttm_jax.exporting.files import Spec
from ttm_jax.pretrained import codecs, sd_vae
from ttm_jax.pretrained.names import Entry, iterate_tensors


@dataclasses.dataclass(frozen=True)
class CodecParts:
  """A codec to be written.

  Attributes:
    network, module: its class and the module of `ttm_jax.pytorch` it stands in.
    config: of the class; `_class_name` where diffusers has a class of its own for the weights.
    table, params: the names of its tensors, and where they are.
  """

  network: str
  module: str
  config: dict[str, Any]
  table: list[Entry]
  params: dict[str, Any]

  @property
  def specs(self) -> list[Spec]:
    return [Spec(name, e.tensor_shape()) for e in self.table for name in e.theirs]

  def tensors(self) -> Iterable[tuple[str, np.ndarray]]:
    return iterate_tensors(self.table, self.params)


def parts(codec: Codec) -> CodecParts:
  """The parts of a codec.

  Raises:
    InputError: if its kind is unknown to PyTorch.
  """
  if isinstance(codec, LinearCodec):
    return CodecParts(
      'TTMLinearCodec',
      'linear',
      codecs.linear_config_to_torch(codec),
      codecs.linear_table(codec.patch, codec.channels),
      codecs.linear_parameters(codec),
    )
  if isinstance(codec, TAE):
    return CodecParts(
      'TTMTemporalAutoencoder',
      'tae',
      codecs.tae_config_to_torch(codec.config),
      codecs.tae_table(codec.config),
      codecs.tae_parameters(codec),
    )
  if isinstance(codec, SDVAE):
    return CodecParts(
      'TTMImageCodec',
      'image_codec',
      sd_vae.config_to_diffusers(codec.config),
      sd_vae.table(codec.config),
      nnx.to_pure_dict(nnx.state(codec, nnx.Param)),
    )
  raise InputError(f'a codec of kind {type(codec).__name__} cannot be exported')
