"""Folders of `ttm_jax.export` read back: a network to start from, and its codec."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.registry import entry_saved_as
from ttm_jax.errors import InputError
from ttm_jax.models.preset import COMPUTE_FIELDS, Preset
from ttm_jax.presets import preset_of_network
from ttm_jax.pretrained.weights import CONFIG, read
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.untrusted import read_object

INDEX = 'model_index.json'


@dataclasses.dataclass(frozen=True)
class Network:
  """A network that was read.

  Attributes:
    preset: its backbone.
    config: its sizes.
    encoders: the text encoders that it reads.
    params: nested dict of float32 arrays.
  """

  preset: Preset
  config: Any
  encoders: Mapping[str, TextEncoderSpec]
  params: dict[str, Any]


def is_exported(source: str) -> bool:
  """Whether a folder is an exported one, or the folder of a network in it."""
  folder = Path(source)
  if (folder / INDEX).is_file():
    return 'TTMPipeline' in str(read_object(folder / INDEX).get('_class_name'))
  return preset_of_network(_class(folder)) is not None


def load(source: str, config: Any) -> dict[str, Any]:
  """The parameters of an exported network, to start another from.

  Args:
    source: an exported folder, of which stage 2 is taken for a network with masked blocks and
      stage 1 for another; or the folder of one of them, FOLDER/stage1.
    config: of the network that they are for; it may differ as tasks differ.

  Raises:
    InputError: where a file is missing or broken, or the network is of another architecture.
  """
  folder = Path(source)
  if (folder / INDEX).is_file():
    folder = folder / ('stage2' if config.masked_blocks else 'stage1')
  network = read_network(folder)
  if type(network.config) is not type(config):
    raise InputError(f'{folder} holds a {_class(folder)}, which is of another preset')
  free = network.preset.task_fields | COMPUTE_FIELDS
  for field in dataclasses.fields(config):
    found, wanted = getattr(network.config, field.name), getattr(config, field.name)
    if field.name not in free and found != wanted:
      raise InputError(
        f'{folder} holds another architecture: {field.name} is {found} there, {wanted} is needed'
      )
  return network.params


def read_network(folder: Path) -> Network:
  """The network in its folder, FOLDER/stage1 or FOLDER/stage2.

  Raises:
    InputError: where a file is missing or broken, or not of the network that it says it is.
  """
  kind = _class(folder)
  preset = preset_of_network(kind)
  if preset is None or preset.torch is None:
    raise InputError(f'{folder} holds no network of an exported folder: {kind or "no config.json"}')
  weights = read(folder, half=True)
  config, encoders = preset.torch.config_from_torch(weights)
  try:
    abstract = nnx.eval_shape(lambda: preset.build(config, encoders))
  except (ValueError, TypeError, ArithmeticError) as error:
    raise InputError(f'{folder / CONFIG} is no configuration of a {kind}: {error}') from error
  like = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
  return Network(preset, config, encoders, preset.torch.from_torch(weights, like))


def read_codec(folder: Path) -> Codec:
  """The codec of an exported folder.

  Raises:
    InputError: where a file is missing or broken, or the codec is of an unknown kind.
  """
  where = folder / 'codec'
  kind = _class(where)
  entry = entry_saved_as(kind)
  if entry is None:
    raise InputError(f'{where} holds no codec of an exported folder: {kind or "no config.json"}')
  return entry.torch.load(where)


def _class(folder: Path) -> str:
  path = folder / CONFIG
  return str(read_object(path).get('_class_name', '')) if path.is_file() else ''
