"""Edits of motion as plain data, each a call of a function of `ttm_jax.trajectory_edits`.

An edit is a JSON object: `kind`, a key of `KINDS`, and its arguments, those of the function of the
same name. Keyframes {frame: value} have frames as strings; a mask is a base64-encoded PNG. The page
sends edits, project files keep them, and `apply` is the only place that changes motion.
"""

import base64
import binascii
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax import trajectory_edits
from ttm_jax.errors import InputError
from ttm_jax.media.images import open_content
from ttm_jax.trajectory import MAX_OBJECTS
from ttm_jax.trajectory_layers import DEPTH_STEPS

MOST_POINTS = 4096  # Corners of a path, and keyframes.
_FARTHEST = 1e5  # Pixels; also the largest factor and angle.


@dataclasses.dataclass(frozen=True)
class Edit:
  """One edit.

  Attributes:
    kind: A key of `KINDS`.
    values: Its arguments, as JSON values.
    key: The edit as canonical JSON; equal edits have equal keys.
  """

  kind: str
  values: Mapping[str, Any]
  key: str

  @classmethod
  def from_json(cls, value: Any) -> 'Edit':
    """Check a JSON value and return it as an edit.

    Raises:
      InputError: If the kind is unknown, or an argument is missing, unknown or of another form.
    """
    if not isinstance(value, dict) or value.get('kind') not in KINDS:
      raise InputError(f'there is no edit {_short(value)}; the kinds are {", ".join(KINDS)}')
    kind = value['kind']
    fields = KINDS[kind]
    if unknown := sorted({*value} - {*fields, 'kind'}):
      raise InputError(
        f'the edit "{kind}" has no "{_short(unknown[0])}"; it has {", ".join(fields)}'
      )
    values = {}
    for name, (check, needed) in fields.items():
      given = value.get(name)
      if given is None and not needed:
        continue
      if given is None or not check(given):
        raise InputError(f'the edit "{kind}" needs "{name}", but it is {_short(given)}')
      values[name] = given
    return cls(kind, values, json.dumps({'kind': kind, **values}, sort_keys=True))

  def to_json(self) -> dict[str, Any]:
    """Return the edit as a JSON object."""
    return {'kind': self.kind, **self.values}

  @property
  def changes(self) -> tuple[int, ...]:
    """The objects whose layers it changes; none if it changes the depth order."""
    if self.kind == 'depth':
      return ()
    if self.kind == 'camera':
      return tuple(self.values['objects'])
    return (self.values['new' if self.kind == 'duplicate' else 'object'],)

  def source(self, obj: int) -> int:
    """Return the object whose layer the new layer of `obj` is made from."""
    return self.values['object'] if self.kind == 'duplicate' else obj

  @property
  def keyframes(self) -> list[int]:
    """The frames of its keyframes, in order."""
    frames: set[int] = set()
    for name in ('path', 'factors', 'degrees', 'times', 'pan', 'zoom', 'boxes'):
      frames |= {int(frame) for frame in self.values.get(name, ())}
    return sorted(frames)


def apply(edit: Edit, layer: np.ndarray, obj: int) -> np.ndarray:
  """Return the new layer of one of the objects that an edit changes.

  Args:
    edit: An edit; not of kind 'depth', see `apply_depth`.
    layer: Layer of `edit.source(obj)`, uint8 [T, H, W].
    obj: The object, one of `edit.changes`.

  Raises:
    InputError: If the edit does not fit the layer.
  """
  values, given = edit.values, _arguments(edit, layer.shape[1:])
  function = _FUNCTIONS[edit.kind]
  if edit.kind == 'camera':
    return function(layer, [obj], **given)
  changed = function(layer, values['object'], **given)
  if edit.kind == 'duplicate':
    return np.where(changed == obj, changed, np.uint8(0))
  return changed


def apply_depth(edit: Edit, order: np.ndarray) -> np.ndarray:
  """Return the depth order, uint8 [T, n], after an edit of kind 'depth'.

  Raises:
    InputError: If the object or a frame does not exist.
  """
  given = {name: value for name, value in edit.values.items() if name != 'object'}
  return trajectory_edits.change_depth(order, edit.values['object'], **given)


def _arguments(edit: Edit, size: tuple[int, ...]) -> dict[str, Any]:
  """Return the keyword arguments of an edit's function."""
  given = {k: v for k, v in edit.values.items() if k not in ('object', 'objects')}
  for name, value in given.items():
    if isinstance(value, dict):
      given[name] = {int(frame): entry for frame, entry in value.items()}
  if 'mask' in given:
    given['mask'] = decode_mask(given['mask'], size)
  return given


def encode_mask(mask: np.ndarray) -> str:
  """Return a mask, bool [H, W], as a base64-encoded 1-bit PNG."""
  file = io.BytesIO()
  Image.fromarray(mask).save(file, 'PNG', optimize=True)
  return base64.b64encode(file.getvalue()).decode()


def decode_mask(text: str, size: tuple[int, ...]) -> np.ndarray:
  """Return the mask, bool [H, W], that `encode_mask` encoded.

  Raises:
    InputError: If the text is not such a PNG of the given size (H, W).
  """
  wrong = InputError(f'a painted mask must be a 1-bit PNG of {size[1]} x {size[0]} pixels')
  try:
    with open_content(base64.b64decode(text, validate=True), ['PNG']) as image:
      if image.mode != '1' or image.size != (size[1], size[0]):
        raise wrong
      return np.asarray(image)
  except (binascii.Error, OSError, SyntaxError, ValueError) as error:
    raise wrong from error


def _short(value: object) -> str:
  text = repr(value.get('kind') if isinstance(value, dict) else value)
  return text if len(text) <= 60 else f'{text[:60]}...'


def _number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value) and abs(value) <= _FARTHEST


def _pair(value: Any) -> bool:
  return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _box(value: Any) -> bool:
  return isinstance(value, list) and len(value) == 4 and all(map(_number, value))


def _points(value: Any) -> bool:
  return isinstance(value, list) and 0 < len(value) <= MOST_POINTS and all(map(_pair, value))


def _whole(value: Any) -> bool:
  return type(value) is int and 0 <= value < 2**20


def _label(value: Any) -> bool:
  return type(value) is int and 1 <= value <= MAX_OBJECTS


def _labels(value: Any) -> bool:
  return isinstance(value, list) and 0 < len(value) <= MAX_OBJECTS and all(map(_label, value))


def _flag(value: Any) -> bool:
  return isinstance(value, bool)


def _keys(entry: Callable[[Any], bool]) -> Callable[[Any], bool]:
  def check(value: Any) -> bool:
    return (
      isinstance(value, dict)
      and 0 < len(value) <= MOST_POINTS
      and all(isinstance(k, str) and k.isdecimal() and len(k) < 7 for k in value)
      and all(map(entry, value.values()))
    )

  return check


def _one_of(choices: Sequence[str]) -> Callable[[Any], bool]:
  return lambda value: value in choices


def _text(value: Any) -> bool:
  return isinstance(value, str) and len(value) < 2**24


# Argument -> (check, whether it must be given), by kind.
KINDS: dict[str, dict[str, tuple[Callable[[Any], bool], bool]]] = {
  'translate': {'object': (_label, True), 'path': (_keys(_pair), True), 'smooth': (_flag, False)},
  'follow': {
    'object': (_label, True),
    'points': (_points, True),
    'start': (_whole, False),
    'stop': (_whole, False),
    'speed': (_points, False),
  },
  'scale': {'object': (_label, True), 'factors': (_keys(_number), True), 'smooth': (_flag, False)},
  'rotate': {'object': (_label, True), 'degrees': (_keys(_number), True), 'smooth': (_flag, False)},
  'flip': {
    'object': (_label, True),
    'axis': (_one_of(trajectory_edits.AXES), False),
    'start': (_whole, False),
    'stop': (_whole, False),
  },
  'depth': {
    'object': (_label, True),
    'step': (_one_of(DEPTH_STEPS), True),
    'start': (_whole, False),
    'stop': (_whole, False),
  },
  'pin': {'object': (_label, True), 'frame': (_whole, True)},
  'hold': {'object': (_label, True), 'from_frame': (_whole, True)},
  'hide': {'object': (_label, True), 'start': (_whole, True), 'stop': (_whole, False)},
  'delete': {'object': (_label, True)},
  'duplicate': {'object': (_label, True), 'new': (_label, True), 'offset': (_pair, False)},
  'retime': {'object': (_label, True), 'times': (_keys(_number), True), 'smooth': (_flag, False)},
  'repaint': {
    'object': (_label, True),
    'mask': (_text, True),
    'start': (_whole, True),
    'stop': (_whole, False),
  },
  'fit_boxes': {'object': (_label, True), 'boxes': (_keys(_box), True)},
  'camera': {
    'objects': (_labels, True),
    'pan': (_keys(_pair), False),
    'zoom': (_keys(_number), False),
    'smooth': (_flag, False),
  },
}

_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
  'translate': trajectory_edits.translate,
  'follow': trajectory_edits.follow,
  'scale': trajectory_edits.scale,
  'rotate': trajectory_edits.rotate,
  'flip': trajectory_edits.flip,
  'pin': trajectory_edits.pin,
  'hold': trajectory_edits.hold,
  'hide': trajectory_edits.hide,
  'delete': trajectory_edits.delete,
  'duplicate': trajectory_edits.duplicate,
  'retime': trajectory_edits.retime,
  'repaint': trajectory_edits.repaint,
  'fit_boxes': trajectory_edits.fit_boxes,
  'camera': trajectory_edits.camera,
}
