"""Load networks and codecs from folders that `ttm_jax.export` wrote."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from ttm_jax.checksums import INDEX, check_sums
from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.registry import entry_saved_as
from ttm_jax.errors import InputError
from ttm_jax.json_file import read_object
from ttm_jax.models.preset import COMPUTE_FIELDS, Preset
from ttm_jax.presets import preset_of_network
from ttm_jax.pretrained.weights import CONFIG, read
from ttm_jax.text.encoders import TextEncoderSpec


@dataclasses.dataclass(frozen=True)
class Network:
  """A network loaded from an exported folder.

  Attributes:
    preset: Its preset, which defines the backbone.
    config: The preset's model config dataclass.
    encoders: The text encoders that it uses, by name.
    params: Nested dict of parameters, read when they are used (`pretrained.names`).
  """

  preset: Preset
  config: Any
  encoders: Mapping[str, TextEncoderSpec]
  params: dict[str, Any]


def is_exported(source: str) -> bool:
  """Return whether `source` is an exported folder or the folder of a network in one.

  Raises:
    InputError: If its JSON file is damaged.
  """
  folder = Path(source)
  if (folder / INDEX).is_file():
    return 'TTMPipeline' in str(read_object(folder / INDEX).get('_class_name'))
  return preset_of_network(_class(folder)) is not None


def load(source: str, config: Any) -> dict[str, Any]:
  """Return the parameters of an exported network, to initialize another network.

  Args:
    source: An exported folder, or the folder of one network in it, such as FOLDER/stage1. Of an
      exported folder, stage 2 is loaded if `config` has masked blocks, else stage 1.
    config: Model config of the network to initialize. Fields that depend on the task may differ.

  Returns:
    Nested dict of parameters, read when they are used (`pretrained.names.StoredParameter`).

  Raises:
    InputError: If a file is missing or damaged, or the architectures differ.
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
  """Return the network of one stage.

  Args:
    folder: FOLDER/stage1 or FOLDER/stage2 of an exported folder.

  Raises:
    InputError: If a file is missing or damaged, or does not match the network it names.
  """
  kind = _class(folder)
  preset = preset_of_network(kind)
  if preset is None or preset.torch is None:
    raise InputError(f'{folder} holds no network of an exported folder: {kind or "no config.json"}')
  _check(folder)
  weights = read(folder, half=True)
  config, encoders = preset.torch.config_from_torch(weights)
  try:
    abstract = nnx.eval_shape(lambda: preset.build(config, encoders))
  except (ValueError, TypeError, ArithmeticError) as error:
    raise InputError(f'{folder / CONFIG} is not a configuration of a {kind}: {error}') from error
  like = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
  return Network(preset, config, encoders, preset.torch.from_torch(weights, like))


def read_codec(folder: Path) -> Codec:
  """Return the codec of an exported folder.

  Raises:
    InputError: If a file is missing or damaged, or the codec is of an unknown kind.
  """
  where = folder / 'codec'
  kind = _class(where)
  entry = entry_saved_as(kind)
  if entry is None:
    raise InputError(f'{where} holds no codec of an exported folder: {kind or "no config.json"}')
  _check(where)
  return entry.torch.load(where)


def _check(component: Path) -> None:
  """Verify the checksums of a folder if it is a component of an exported folder.

  Raises:
    InputError: If its files are not those that were exported.
  """
  component = component.absolute()
  if (component.parent / INDEX).is_file():
    check_sums(component.parent, component.name)


def _class(folder: Path) -> str:
  """Return the class name in the folder's config.json, or an empty string."""
  path = folder / CONFIG
  return str(read_object(path).get('_class_name', '')) if path.is_file() else ''
