"""The codec registry: how each kind is saved, loaded, named on the command line, and exported.

To add a codec, write its module and a `_convert` module that maps it to PyTorch, then add an entry
to `ENTRIES`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.codecs import linear_convert, sd_vae_convert, tae_convert, wan_vae_convert
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.codecs.wan_vae import WAN21, WAN22, WanVAE, WanVAEConfig
from ttm_jax.pretrained.names import Entry
from ttm_jax.pretrained.weights import read


@dataclasses.dataclass(frozen=True)
class TorchCodec:
  """The PyTorch counterpart of a codec.

  Attributes:
    network: name of the PyTorch class.
    module: dotted name of the module that defines the class.
    saved_as: class name in the `config.json` of an exported folder.
    config: codec -> constructor arguments of the PyTorch class.
    table: codec -> name table between JAX parameters and PyTorch tensors.
    parameters: codec -> nested dict of the arrays in the table.
    load: folder with `config.json` and safetensors -> codec.
  """

  network: str
  module: str
  saved_as: str
  config: Callable[[Any], dict[str, Any]]
  table: Callable[[Any], list[Entry]]
  parameters: Callable[[Any], dict[str, Any]]
  load: Callable[[Path], Codec]


@dataclasses.dataclass(frozen=True)
class CodecEntry:
  """One kind of codec.

  Attributes:
    name: the kind in `codec.json`, and the NAME of `--codec NAME:SOURCE`.
    codec: the codec class.
    describe: codec -> JSON object with everything but the weights.
    abstract: that object -> a codec whose leaves are `jax.ShapeDtypeStruct`. Raises ValueError or
      TypeError if the object is not valid.
    torch: the PyTorch counterpart.
    open_weights: folder, file or hub id of open weights -> codec; None if there are none.
    of_kind: codec of the class -> whether it is of this kind, for kinds that share a class.
  """

  name: str
  codec: type
  describe: Callable[[Any], dict[str, Any]]
  abstract: Callable[[Mapping[str, Any]], Codec]
  torch: TorchCodec
  open_weights: Callable[[str], Codec] | None = None
  of_kind: Callable[[Any], bool] = lambda codec: True


def _described_network(codec: Any) -> dict[str, Any]:
  return dataclasses.asdict(codec.config)


def _abstract_network(network: Callable[..., Any], config: Callable[..., Any]) -> Callable:
  """Return a function from config values to an abstract network (shapes without weights)."""

  def make(values: Mapping[str, Any]) -> Any:
    given: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    made = config(**given)
    return nnx.eval_shape(lambda: network(made, rngs=nnx.Rngs(0)))

  return make


def _wan_vae(name: str, release: WanVAEConfig) -> CodecEntry:
  """Return the entry of one generation of the autoencoder of Wan."""
  return CodecEntry(
    name=name,
    codec=WanVAE,
    of_kind=lambda codec: codec.config.residual == release.residual,
    describe=_described_network,
    abstract=_abstract_network(WanVAE, WanVAEConfig),
    torch=TorchCodec(
      network='TTMWanCodec',
      module='ttm_jax.pytorch.wan_codec',
      saved_as=wan_vae_convert.CLASS,
      config=lambda codec: wan_vae_convert.config_to_diffusers(codec.config),
      table=lambda codec: wan_vae_convert.table(codec.config),
      parameters=wan_vae_convert.parameters,
      load=lambda folder: wan_vae_convert.load(str(folder)),
    ),
    open_weights=functools.partial(wan_vae_convert.load, expected=release),
  )


def _abstract_linear(values: Mapping[str, Any]) -> LinearCodec:
  static = dict(values)
  channels, patch = static.pop('channels'), tuple(static.pop('patch'))
  if len(patch) != 3:
    raise ValueError(f'a patch of {patch} has not three sides')
  if not all(isinstance(static.get(name), int | float) for name in ('explained', 'psnr')):
    raise ValueError('"explained" and "psnr" are not numbers')
  if not isinstance(static.get('lapped', False), bool):
    raise ValueError('"lapped" is neither true nor false')
  size = int(np.prod(patch)) * 3
  basis, mean, scale = (
    jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size, channels), (size,), ())
  )
  return LinearCodec(basis, mean, scale, patch=patch, **static)  # type: ignore[arg-type]


ENTRIES: dict[str, CodecEntry] = {
  entry.name: entry
  for entry in (
    CodecEntry(
      name='linear',
      codec=LinearCodec,
      describe=linear_convert.config_to_torch,
      abstract=_abstract_linear,
      torch=TorchCodec(
        network='TTMLinearCodec',
        module='ttm_jax.pytorch.linear',
        saved_as='TTMLinearCodec',
        config=linear_convert.config_to_torch,
        table=lambda codec: linear_convert.table(codec.patch, codec.channels),
        parameters=linear_convert.parameters,
        load=lambda folder: linear_convert.from_torch(read(folder)),
      ),
    ),
    CodecEntry(
      name='tae',
      codec=TAE,
      describe=_described_network,
      abstract=_abstract_network(TAE, TAEConfig),
      torch=TorchCodec(
        network='TTMTemporalAutoencoder',
        module='ttm_jax.pytorch.tae',
        saved_as='TTMTemporalAutoencoder',
        config=lambda codec: tae_convert.config_to_torch(codec.config),
        table=lambda codec: tae_convert.table(codec.config),
        parameters=tae_convert.parameters,
        load=lambda folder: tae_convert.from_torch(read(folder)),
      ),
    ),
    CodecEntry(
      name='sd_vae',
      codec=SDVAE,
      describe=_described_network,
      abstract=_abstract_network(SDVAE, SDVAEConfig),
      torch=TorchCodec(
        network='TTMImageCodec',
        module='ttm_jax.pytorch.image_codec',
        saved_as='AutoencoderKL',
        config=lambda codec: sd_vae_convert.config_to_diffusers(codec.config),
        table=lambda codec: sd_vae_convert.table(codec.config),
        parameters=lambda codec: nnx.to_pure_dict(nnx.state(codec, nnx.Param)),
        load=lambda folder: sd_vae_convert.load(str(folder)),
      ),
      open_weights=sd_vae_convert.load,
    ),
    _wan_vae('wan21_vae', WAN21),
    _wan_vae('wan22_vae', WAN22),
  )
}


def entry_of(codec: Codec) -> CodecEntry:
  """Return the registry entry of a codec.

  Raises:
    ValueError: the class of the codec is not registered.
  """
  for entry in ENTRIES.values():
    if isinstance(codec, entry.codec) and entry.of_kind(codec):
      return entry
  raise ValueError(f'{type(codec).__name__} is not a registered codec')


def entry_saved_as(class_name: str) -> CodecEntry | None:
  """Return an entry whose exported `config.json` has the given class name, or None.

  Kinds that share a class also share how it is loaded.
  """
  found = (entry for entry in ENTRIES.values() if entry.torch.saved_as == class_name)
  return next(found, None)
