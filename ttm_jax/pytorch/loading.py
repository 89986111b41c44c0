"""Load exported folders with the classes of this package, without running code of the folder.

Missing, truncated and modified files are reported as InputError.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from ttm_jax.checksums import COMPONENTS, INDEX, files_read
from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import RANGES
from ttm_jax.json_file import read_object
from ttm_jax.untrusted import check_links, identifier, inside, is_repository

from .conditioning import FIRST_FRAME
from .dit import TTMTransformer
from .image_codec import TTMImageCodec
from .linear import TTMLinearCodec
from .schedulers import FlowMatchingScheduler, ZeroSNRScheduler
from .tae import TTMTemporalAutoencoder
from .text_encoder import TTMTextEncoder
from .unet import TTMUNet
from .wan import TTMWanTransformer
from .wan_codec import TTMWanCodec

CLASSES: dict[str, Any] = {
  kind.__name__: kind
  for kind in (
    TTMTransformer,
    TTMUNet,
    TTMWanTransformer,
    TTMLinearCodec,
    TTMTemporalAutoencoder,
    TTMImageCodec,
    TTMWanCodec,
    TTMTextEncoder,
    FlowMatchingScheduler,
    ZeroSNRScheduler,
  )
}


def register(kind: type) -> None:
  """Add a class of another package to `CLASSES`, so that exported folders can name it."""
  CLASSES[kind.__name__] = kind


# Fields of `AutoencoderKL` that `TTMImageCodec` does not support.
_SHIFTED = ('shift_factor', 'latents_mean', 'latents_std')


def check_paths(folder: Path) -> None:
  """Check that nothing leads out of the folder.

  Raises:
    InputError: if a symbolic link or a weight index (*.index.json) names a file outside, or an
      index is damaged.
  """
  for path in files_read(folder):
    if path.name.endswith('.index.json'):
      listed = read_object(path).get('weight_map')
      if not isinstance(listed, dict):
        raise InputError(f'{path} lists no tensors ("weight_map"): copy it again')
      for name in set(map(str, listed.values())):
        check_links(folder, inside(path.parent, name, path))


def read_index(folder: Path) -> dict[str, Any]:
  """Return the checked contents of `model_index.json` of an exported folder.

  Raises:
    InputError: if the file is missing or damaged, or a value has the wrong type or range.
  """
  path = folder / INDEX
  index = read_object(path)
  for name in COMPONENTS:
    entry = index.get(name)
    if not (isinstance(entry, list) and len(entry) == 2):
      raise _damaged(path, name)
    if entry[1] is not None and not isinstance(entry[1], str):
      raise _damaged(path, name)
  video, stages = index.get('video'), index.get('stages')
  if not isinstance(video, dict) or not isinstance(stages, dict):
    raise _damaged(path, 'stages' if isinstance(video, dict) else 'video')
  for name in ('frames', 'height', 'width'):
    _check(path, f'video.{name}', _is_size(video.get(name)))
  _check(path, 'video.fps', _is_number(video.get('fps')) and video['fps'] > 0)
  _check(path, 'video.latents', _are_sizes(video.get('latents'), 4))
  for name in ('stage1', 'stage2'):
    settings: Any = stages.get(name)
    _check(path, f'stages.{name}', isinstance(settings, dict))
    for key, wanted in _SETTINGS.items():
      _check(path, f'stages.{name}.{key}', key in settings and wanted(settings[key]))
    # Folders of earlier versions have none.
    _check(path, f'stages.{name}.scale_ranges', _are_ranges(settings.get('scale_ranges', {})))
  return index


def read_texts(folder: Path) -> dict[str, Any]:
  """Return the checked contents of `text_encoder/config.json` of an exported folder.

  Raises:
    InputError: if the file is missing or damaged, a value has the wrong type or range, or a model
      is neither a repository id nor a folder beside it.
  """
  path = folder / 'text_encoder' / 'config.json'
  config = read_object(path)
  stages, models = config.get('stages'), config.get('models')
  _check(path, 'stages', isinstance(stages, dict) and bool(stages))
  _check(path, 'models', isinstance(models, dict))
  assert isinstance(stages, dict) and isinstance(models, dict)
  for stage, texts in stages.items():
    _check(path, f'stages.{stage}', isinstance(texts, dict))
    _check(path, f'stages.{stage}.max_objects', _is_size(texts.get('max_objects')))
    _check(path, f'stages.{stage}.prefix', isinstance(texts.get('prefix'), str))
    _check(path, f'stages.{stage}.encoders', isinstance(texts.get('encoders'), list))
    for encoder in texts['encoders']:
      where = f'stages.{stage}.encoders'
      _check(path, where, isinstance(encoder, dict) and encoder.keys() == _ENCODER)
      identifier(encoder['name'], f'{path}: {where}')
      _check(path, where, all(_is_size(encoder[k]) for k in _ENCODER - {'name'}))
  for name, model in models.items():
    identifier(name, f'{path}: models')
    if isinstance(model, str) and model.startswith('./'):
      inside(path.parent, model[2:], path)
    elif not is_repository(model):
      raise InputError(
        f'{path}: models.{name} must be a repository id, or a folder beside it that begins'
        ' with "./"; give another model with --text'
      )
  return config


_ENCODER = {'name', 'dim', 'length', 'prompt_length'}


def _is_size(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**24


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) < 1e9


def _are_sizes(values: Any, count: int) -> bool:
  return isinstance(values, list) and len(values) == count and all(map(_is_size, values))


def _are_ranges(values: Any) -> bool:
  if not isinstance(values, dict) or (values and values.keys() != RANGES.keys()):
    return False
  return all(
    isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) and pair[0] <= pair[1]
    for pair in values.values()
  )


_SETTINGS: dict[str, Callable[[Any], bool]] = {
  'palette': lambda value: isinstance(value, str),
  'grids': lambda value: isinstance(value, list) and all(_are_sizes(pair, 2) for pair in value),
  'cross_mask': lambda value: isinstance(value, str),
  'first_frame': lambda value: value in FIRST_FRAME,
  'steps': _is_size,
  'visual_scale': _is_number,
  'text_scale': _is_number,
  'rescale': _is_number,
  'student': lambda value: value in ('', 'dmd', 'guidance'),
}


def _check(path: Path, what: str, fits: bool) -> None:
  if not fits:
    raise _damaged(path, what)


def _damaged(path: Path, what: str) -> InputError:
  return InputError(f'{path}: {what} is missing or damaged: copy it again')


def check_fields(kind: type, path: Path) -> None:
  """Check that a class supports all fields of its configuration.

  diffusers ignores fields that are not arguments of the class. That is safe only if the field is
  off (None, false or empty), or has the default value of the parent class.

  Args:
    kind: class of the component.
    path: its configuration file.

  Raises:
    InputError: if a field is not supported; the message names it.
  """
  config = read_object(path)
  own = inspect.signature(kind).parameters
  inherited: dict[str, Any] = {}
  for parent in reversed(kind.__mro__[1:]):
    if issubclass(parent, ConfigMixin) and '__init__' in vars(parent):
      parameters = inspect.signature(parent).parameters
      inherited |= {name: parameter.default for name, parameter in parameters.items()}
  for name, value in config.items():
    if name.startswith('_') or value is None or value is False or value in ('', [], {}):
      continue
    known = name in own or (name in inherited and _plain(inherited[name]) == value)
    if not known or (kind is TTMImageCodec and name in _SHIFTED):
      raise InputError(
        f'{path}: {name} is set, which a {kind.__name__} does not compute: copy the folder again'
      )


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def find_folder(name: str, local_files_only: bool = False) -> Path:
  """Return the path of an exported folder; download a repository of the Hugging Face Hub first.

  Args:
    name: local folder, or repository id (owner/name).
    local_files_only: do not use the network; a repository must be in the local cache.

  Raises:
    InputError: if there is no such folder or repository, or it is not an exported folder.
  """
  if Path(name).is_dir():
    folder = Path(name)
  elif Path(name).exists() or name.count('/') != 1:
    raise InputError(f'{name} is neither an exported folder nor a repository id (owner/name)')
  else:
    from huggingface_hub import snapshot_download

    try:
      folder = Path(snapshot_download(name, local_files_only=local_files_only))
    except Exception as error:  # The exception types of huggingface_hub differ by version.
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
      raise InputError(f'{name} is not a folder here and cannot be fetched ({reason})') from error
  if not (folder / INDEX).is_file():
    raise InputError(f'{folder} is not an exported folder: {INDEX} is missing')
  return folder


def load_component(folder: Path, name: str, kind: str | None, dtype: torch.dtype | None) -> Any:
  """Return a component of an exported folder, in evaluation mode; None if `kind` is None.

  Args:
    folder: the exported folder.
    name: subfolder of the component, one of `COMPONENTS`.
    kind: name of its class, a key of `CLASSES`, or None if the folder lacks the component.
    dtype: of the weights; None for float32. Parts named in `Model.FLOAT32` stay in float32.

  Raises:
    InputError: if the class is unknown, a field of the configuration is not supported, or the
      weights do not match the configuration.
  """
  if kind is None:
    return None
  if kind not in CLASSES:
    raise InputError(f'{folder / INDEX}: {name} is of the unknown class {kind!r}')
  where = folder / name
  made = CLASSES[kind]
  check_fields(made, where / made.config_name)
  if made is TTMTextEncoder:
    read_texts(folder)
  try:
    if not issubclass(made, ModelMixin):
      return made.from_pretrained(where)
    model, info = made.from_pretrained(
      where, torch_dtype=dtype, use_safetensors=True, output_loading_info=True
    )
  except Exception as error:  # diffusers raises many types for invalid values.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f'{where} cannot be loaded ({reason}): copy all of it again') from error
  for what in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    if found := info[what]:
      raise InputError(
        f'{where}: the weights are not those of config.json beside them ({what.replace("_", " ")},'
        f' such as {sorted(map(str, found))[0]}): copy it again'
      )
  return model.eval()
