"""Read the configuration of a local SAM 2 model safely, without running code that it names.

Hydra calls any object that a YAML file names in `_target_`, with any arguments, and resolves values
such as environment variables. An untrusted model folder could thus run arbitrary code. Therefore
only the section `model` is read. It may name the classes that the configurations of the package
`sam2` use, and pass them numbers and the words in WORDS.
"""

from pathlib import Path
from typing import Any

from ttm_jax.errors import InputError

TARGETS = tuple(
  f'sam2.{name}'
  for name in (
    'modeling.backbones.hieradet.Hiera',
    'modeling.backbones.image_encoder.FpnNeck',
    'modeling.backbones.image_encoder.ImageEncoder',
    'modeling.memory_attention.MemoryAttention',
    'modeling.memory_attention.MemoryAttentionLayer',
    'modeling.memory_encoder.CXBlock',
    'modeling.memory_encoder.Fuser',
    'modeling.memory_encoder.MaskDownSampler',
    'modeling.memory_encoder.MemoryEncoder',
    'modeling.position_encoding.PositionEmbeddingSine',
    'modeling.sam.transformer.RoPEAttention',
    'modeling.sam2_base.SAM2Base',
    'sam2_video_predictor.SAM2VideoPredictor',
  )
)
WORDS = ('bicubic', 'bilinear', 'gelu', 'glu', 'nearest', 'relu', 'avg', 'sum')
_MOST_BYTES = 1 << 16  # The configurations of the package have 4 kB.


def read_config(path: Path) -> dict[str, Any]:
  """Return the section `model` of a configuration, as dicts, lists, numbers and allowed words.

  Raises:
    InputError: if the file cannot be read, has no such section, or contains a value that is not
      allowed.
  """
  import yaml

  try:
    if path.stat().st_size > _MOST_BYTES:
      raise InputError(f'{path}: has more than {_MOST_BYTES} bytes; give a configuration of SAM 2')
    text = path.read_text(encoding='utf-8')
    # A few nested aliases can expand to an exponential number of values.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
      raise InputError(f'{path}: has aliases (*name), which are not read; write the values out')
    loaded = yaml.safe_load(text)
  except InputError:
    raise
  except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
    said = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise InputError(
      f'{path}: cannot be read as YAML ({said}); give the configuration of the model'
    ) from error
  model = loaded.get('model') if isinstance(loaded, dict) else None
  if not isinstance(model, dict):
    raise InputError(f'{path}: has no section "model"; give a configuration of SAM 2')
  try:
    return {_field(name, 'model'): _value(value, name, 'model') for name, value in model.items()}
  except InputError as error:
    raise InputError(f'{path}: {error}') from error


def _value(value: Any, name: str, place: str) -> Any:
  """Return a copy of a field's value; raise InputError if a part of it is not allowed."""
  inner = f'{place}.{name}'
  if name == '_target_':
    if value not in TARGETS:
      raise InputError(
        f"{inner} is {str(value)[:80]!r}; only classes of the package's own configurations are"
        ' built'
      )
    return value
  if isinstance(value, dict):
    return {_field(key, inner): _value(entry, key, inner) for key, entry in value.items()}
  if isinstance(value, list):
    return [_value(entry, str(number), inner) for number, entry in enumerate(value)]
  if value is None or isinstance(value, bool | int | float) or value in WORDS:
    return value
  if isinstance(value, str) and _is_number(value):
    return float(value)
  raise InputError(
    f'{inner} is {str(value)[:80]!r}; besides numbers only {", ".join(sorted(WORDS))} are read'
  )


def _field(name: Any, place: str) -> str:
  if name == '_target_' or (isinstance(name, str) and name.isidentifier() and name[0] != '_'):
    return name
  raise InputError(f'{place} has the field {str(name)[:80]!r}, which is not read')


def _is_number(text: str) -> bool:
  """Return whether a text is a number that YAML 1.1 parses as a string, such as 1e-6."""
  try:
    float(text)
  except ValueError:
    return False
  return True
