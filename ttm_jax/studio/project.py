"""A project: a picture, its objects, their motion with a history, proposals and renders.

What can be undone is a `Scene`, an immutable value; the history is a list of scenes. Texts are not
part of it, so that undo never takes back what was typed.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.inference.request import Request
from ttm_jax.keyframes import over_time
from ttm_jax.studio.backends import Found, Limits
from ttm_jax.studio.motion import Base, Cache, Motion
from ttm_jax.studio.motion_edits import Edit, encode_mask
from ttm_jax.studio.painting import Stroke, paint
from ttm_jax.trajectory import MAX_OBJECTS
from ttm_jax.trajectory_layers import split

MOST_WORDS = 200
MOST_CHARACTERS = 2000
_TAG = re.compile(r'<[!/?a-zA-Z|][^>]*>')

# The keyframed edits of handles: argument, value without effect, and name for error messages.
_KEYED: dict[str, tuple[str, Any, str]] = {
  'translate': ('path', [0, 0], 'the path'),
  'scale': ('factors', 1, 'the list of factors'),
  'rotate': ('degrees', 0, 'the list of angles'),
}


@dataclasses.dataclass(frozen=True)
class Thing:
  """What is said about an object.

  Attributes:
    name: Its name.
    prompt: What it does; empty for nothing.
    shown: Whether the editor shows it.
  """

  name: str = ''
  prompt: str = ''
  shown: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """What undo and redo go through.

  Attributes:
    picture: uint8 [H, W, 3].
    mask: Its objects, label map uint8 [H, W].
    base: The motion before edits.
    edits: The edits.
    change: What led to this scene, in words.
  """

  picture: np.ndarray
  mask: np.ndarray
  base: Base
  edits: tuple[Edit, ...] = ()
  change: str = ''


class Project:
  """A project of a session.

  Attributes:
    limits: What the networks can generate.
    caption: What the video shows.
    motion: What moves and how.
    things: What is said about each object, by label.
    scene: The current scene; None before there is a picture.
  """

  def __init__(self, limits: Limits):
    self.limits = limits
    self.caption = ''
    self.motion = ''
    self.things: dict[int, Thing] = {}
    self._scenes: list[Scene] = []
    self._at = -1
    self._cache = Cache()

  @property
  def scene(self) -> Scene:
    """The current scene.

    Raises:
      InputError: If there is no picture yet.
    """
    if self._at < 0:
      raise InputError('there is no picture yet: upload, paste or choose one')
    return self._scenes[self._at]

  @property
  def is_empty(self) -> bool:
    """Whether there is no picture yet."""
    return self._at < 0

  @property
  def undoable(self) -> str:
    """What undo takes back, in words; empty if there is nothing."""
    return self._scenes[self._at].change if self._at > 0 else ''

  @property
  def redoable(self) -> str:
    """What redo does again, in words; empty if there is nothing."""
    return self._scenes[self._at + 1].change if self._at + 1 < len(self._scenes) else ''

  def computed(self, scene: Scene | None = None) -> Motion:
    """Return the layers of the trajectory of a scene; by default of the current one."""
    scene = self.scene if scene is None else scene
    return self._cache.compute(scene.base, scene.edits)

  def trajectory(self) -> np.ndarray:
    """Return the current trajectory, label map uint8 [T, H, W].

    Raises:
      InputError: If no frame shows an object.
    """
    return self.computed().ids()

  def undo(self) -> None:
    """Go back one scene, if there is one."""
    self._at = max(self._at - 1, min(self._at, 0))

  def redo(self) -> None:
    """Go forward one scene, if there is one."""
    self._at = min(self._at + 1, len(self._scenes) - 1)

  def start(self, picture: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Begin anew with a picture, uint8 [H, W, 3], and objects, label map uint8 [H, W] or None."""
    if mask is None:
      mask = np.zeros(picture.shape[:2], np.uint8)
    self._check_labels(mask)
    self.caption, self.motion, self.things = '', '', {}
    self._scenes, self._at, self._cache = [], -1, Cache()
    self._push(Scene(picture, mask, Base.still(mask, self.limits.frames)))
    self._name_objects()

  def restore(self, scene: Scene) -> None:
    """Begin anew with a scene; its edits can be undone one by one.

    Raises:
      InputError: If an edit does not fit.
    """
    self._cache.compute(scene.base, scene.edits)
    self._check_labels(scene.mask)
    self._scenes, self._at = [], -1
    for count in range(len(scene.edits) + 1):
      change = title(scene.edits[count - 1]) if count else ''
      self._push(dataclasses.replace(scene, edits=scene.edits[:count], change=change))
    self._name_objects()

  def set_mask(self, mask: np.ndarray, change: str = 'Objects') -> None:
    """Replace the objects of the picture, label map uint8 [H, W].

    In a trajectory that was proposed, the objects whose mask differs stand still.

    Raises:
      InputError: If there are too many objects, or an edit needs an object that is gone.
    """
    self._check_labels(mask)
    scene, frames = self.scene, self.limits.frames
    if scene.base.is_still:
      base = Base.still(mask, frames)
    else:
      changed = [
        obj for obj in range(1, MAX_OBJECTS + 1) if ((mask == obj) != (scene.mask == obj)).any()
      ]
      still = Base.still(mask, frames)
      base = scene.base.replaced(scene.base.origin, {obj: still.layer(obj) for obj in changed})
    self._change(change, mask=mask, base=base)
    self._name_objects()

  def paint(self, obj: int, stroke: Stroke) -> None:
    """Paint an object of the picture; pixels of other objects become its own.

    Raises:
      InputError: If the object is none of the networks', or the stroke misses the picture.
    """
    self._check_label(obj)
    scene = self.scene
    painted = paint(scene.mask == obj, scene.picture, stroke)
    mask = np.where(painted, np.uint8(obj), np.where(scene.mask == obj, 0, scene.mask))
    self.set_mask(mask.astype(np.uint8), f'{stroke.tool.capitalize()} on object {obj}')

  def repaint(self, obj: int, stroke: Stroke, start: int, stop: int | None = None) -> None:
    """Paint an object in frames of the trajectory, from what it is in frame `start`.

    Raises:
      InputError: If the object or a frame does not exist, or the stroke misses the picture.
    """
    self._check_label(obj)
    self._check_frame(start)
    layer = self.computed().layers.get(obj)
    before = layer.ids()[start] > 0 if layer else np.zeros(self.scene.mask.shape, bool)
    mask = paint(before, self.scene.picture, stroke)
    values = {'kind': 'repaint', 'object': obj, 'mask': encode_mask(mask), 'start': start}
    self.edit(Edit.from_json(values if stop is None else {**values, 'stop': stop}))

  def remove_object(self, obj: int) -> None:
    """Remove an object from the picture and the motion, with the edits that change it alone."""
    scene = self.scene
    layers = {obj: np.zeros(scene.base.sets.shape, np.uint8)}
    edits = tuple(e for e in scene.edits if obj not in e.changes and e.values.get('object') != obj)
    mask = np.where(scene.mask == obj, 0, scene.mask).astype(np.uint8)
    base = (
      Base.still(mask, self.limits.frames)
      if scene.base.is_still
      else scene.base.replaced(scene.base.origin, layers)
    )
    self._change(f'Remove object {obj}', mask=mask, base=base, edits=edits)
    self.things.pop(obj, None)

  def set_base(self, base: Base, change: str) -> None:
    """Replace the motion, for example by a proposal; edits are taken back."""
    self._change(change, base=base, edits=())
    self._name_objects()

  def revisit(self, scene: Scene, change: str) -> None:
    """Return to an earlier scene of this picture."""
    self._change(change, mask=scene.mask, base=scene.base, edits=scene.edits)

  def replace_layers(self, layers: Mapping[int, np.ndarray], origin: str) -> None:
    """Replace the motion of some objects, layers uint8 [T, H, W]; their edits are taken back."""
    for obj in layers:
      self._check_label(obj)
    edits = tuple(e for e in self.scene.edits if not set(e.changes) & set(layers))
    base = self.scene.base.replaced(origin, dict(layers))
    self._change(origin, base=base, edits=edits)
    self._name_objects()

  def edit(self, edit: Edit) -> None:
    """Add an edit.

    Raises:
      InputError: If it does not fit the motion.
    """
    present = self.computed().layers
    if edit.kind == 'duplicate':
      self._check_label(edit.values['new'])
      if edit.values['new'] in present:
        raise InputError(f'there is an object {edit.values["new"]} already: take a free number')
    for obj in edit.changes:
      self._check_label(obj)
    if edit.kind == 'follow':
      self._check_path(edit)
    if edit.kind == 'depth' and edit.values['object'] not in present:
      raise InputError(f'no frame shows object {edit.values["object"]}')
    self._change(title(edit), edits=(*self.scene.edits, edit))
    if edit.kind == 'duplicate':
      source = self.things.get(edit.values['object'], Thing())
      copy = dataclasses.replace(source, name=f'{source.name} copy'.strip())
      self.things.setdefault(edit.values['new'], copy)
    self._name_objects()

  def edit_all(self, edits: list[Edit], change: str) -> None:
    """Add several edits as one change that undo takes back.

    Raises:
      InputError: If one does not fit the motion; then none is added.
    """
    at = self._at
    later = self._scenes[at + 1 :]
    try:
      for edit in edits:
        self.edit(edit)
    except InputError:
      self._scenes[at + 1 :], self._at = later, at
      raise
    if len(edits) > 1:
      scene = dataclasses.replace(self.scene, change=change)
      self._at = at
      self._push(scene)

  def handle(self, kind: str, obj: int, frame: int, by: Any) -> None:
    """Move, scale or rotate an object in a frame, as a drag does: set a keyframe there.

    If the last edit of the object is of the same kind, the keyframe becomes part of it; else it
    begins a new edit without effect in frame 0.

    Args:
      kind: 'translate', 'scale' or 'rotate'.
      obj: The object.
      frame: The frame.
      by: Change of what that frame shows: offset [x, y] in pixels, factor, or degrees.

    Raises:
      InputError: If the object or the frame does not exist, or `by` has another form.
    """
    if kind not in _KEYED:
      raise InputError(f'an object cannot be changed by "{kind}": move, scale or rotate it')
    self._check_frame(frame)
    name, neutral, what = _KEYED[kind]
    probe = Edit.from_json({'kind': kind, 'object': obj, name: {str(frame): by}})
    edits = list(self.scene.edits)
    last = max((i for i, e in enumerate(edits) if obj in e.changes), default=-1)
    copied = any(e.kind == 'duplicate' and e.source(0) == obj for e in edits[last + 1 :])
    keys: dict[str, Any] = {} if frame == 0 else {'0': neutral}
    joins = last >= 0 and edits[last].kind == kind and not copied
    if joins:
      keys = dict(edits[last].values[name])
      numbered = {int(key): value for key, value in keys.items()}
      smooth = edits[last].values.get('smooth', False)
      shape = (2,) if kind == 'translate' else ()
      old = over_time(numbered, self.limits.frames, what, shape, smooth)[frame]
      given = np.asarray(probe.values[name][str(frame)], float)
      by = (old * given if kind == 'scale' else old + given).tolist()
    keys[str(frame)] = by
    keys = dict(sorted(keys.items(), key=lambda item: int(item[0])))
    edit = Edit.from_json({'kind': kind, 'object': obj, name: keys, 'smooth': True})
    if joins:
      edits[last] = edit
    else:
      edits.append(edit)
    self._change(title(edit), edits=tuple(edits))

  def replace_edit(self, index: int, edit: Edit) -> None:
    """Replace one edit of the list, for example by one with another speed.

    Raises:
      InputError: If there is none, or the new one, or a later one, does not fit.
    """
    edits = list(self.scene.edits)
    if not 0 <= index < len(edits):
      raise InputError(f'there is no edit {index + 1}; the list has {len(edits)}')
    if edit.changes != edits[index].changes:
      raise InputError('an edit can only be replaced by one of the same object')
    edits[index] = edit
    self._change(title(edit), edits=tuple(edits))

  def remove_edit(self, index: int) -> None:
    """Remove one edit of the list.

    Raises:
      InputError: If there is none, or a later one needs it.
    """
    edits = list(self.scene.edits)
    if not 0 <= index < len(edits):
      raise InputError(f'there is no edit {index + 1}; the list has {len(edits)}')
    removed = edits.pop(index)
    self._change(f'Remove "{title(removed)}"', edits=tuple(edits))

  def move_keyframe(self, index: int, frame: int, to: int | None) -> None:
    """Move a keyframe of an edit to another frame, or remove it (None).

    Raises:
      InputError: If there is no such edit or keyframe, or it is the only one.
    """
    edits = list(self.scene.edits)
    if not 0 <= index < len(edits) or frame not in edits[index].keyframes:
      raise InputError(f'edit {index + 1} has no keyframe at frame {frame}')
    if to is not None:
      self._check_frame(to)
    values = edits[index].to_json()
    for name, keys in values.items():
      if isinstance(keys, dict) and str(frame) in keys:
        changed = {key: value for key, value in keys.items() if key != str(frame)}
        if to is not None:
          changed[str(to)] = keys[str(frame)]
        values[name] = dict(sorted(changed.items(), key=lambda item: int(item[0])))
    if not all(values[name] for name in values if isinstance(values[name], dict)):
      return self.remove_edit(index)
    edits[index] = Edit.from_json(values)
    where = 'Remove keyframe' if to is None else f'Keyframe to frame {to}'
    return self._change(where, edits=tuple(edits))

  def say(self, caption: str | None = None, motion: str | None = None) -> None:
    """Set the texts.

    Raises:
      InputError: If one is too long or contains markup.
    """
    caption = self.caption if caption is None else checked_text(caption, 'the caption')
    motion = self.motion if motion is None else checked_text(motion, 'the motion prompt')
    self.caption, self.motion = caption, motion

  def describe(self, obj: int, **changes: Any) -> None:
    """Set name, prompt or visibility of an object.

    Raises:
      InputError: If there can be no such object, or a text is too long or contains markup.
    """
    self._check_label(obj)
    for field in ('name', 'prompt'):
      if field in changes:
        changes[field] = checked_text(changes[field], f'the {field} of object {obj}')
    self.things[obj] = dataclasses.replace(self.things.get(obj, Thing()), **changes)

  def adopt(self, found: Found) -> None:
    """Take over the objects and texts that models found."""
    self.set_mask(found.mask, 'Objects found')
    if found.motion and not self.motion:
      self.motion = found.motion
    for obj in np.unique(found.mask[found.mask > 0]).tolist():
      name, prompt = found.names.get(obj, ''), found.prompts.get(obj, '')
      self.things[obj] = Thing(name or f'object {obj}', prompt)

  def request(self, ids: np.ndarray | None = None) -> Request:
    """Return the request to the networks, for the motion `ids` or for stage 1 (None).

    Raises:
      InputError: If a text is missing, or there is no object.
    """
    if not self.caption.strip():
      raise InputError('the caption is empty: write what the video shows')
    mask = self.scene.mask if ids is None else named_mask(ids)
    if not mask.any():
      raise InputError('there is no object yet: paint one, or load a mask')
    present = set(np.unique(mask).tolist()) - {0}
    prompts = {obj: t.prompt for obj, t in self.things.items() if t.prompt and obj in present}
    motion = self.motion.strip() or self.caption
    return Request(self.scene.picture, mask, self.caption, motion, prompts)

  def pinned(self) -> list[int]:
    """Return the objects that were pinned to the scene."""
    return sorted({e.values['object'] for e in self.scene.edits if e.kind == 'pin'})

  def _push(self, scene: Scene) -> None:
    self._scenes[self._at + 1 :] = [scene]
    self._at = len(self._scenes) - 1

  def _change(self, change: str, **fields: Any) -> None:
    """Add a scene with some fields replaced, if its motion can be computed."""
    scene = dataclasses.replace(self.scene, change=change, **fields)
    try:
      self._cache.compute(scene.base, scene.edits)
    except InputError as error:
      at = self._first_misfit(scene)
      if at == len(self.scene.edits):  # The edit that is added.
        raise
      name = title(scene.edits[at])
      raise InputError(
        f'"{name}" does not fit any more ({error}): remove that edit first'
      ) from error
    self._push(scene)

  def _first_misfit(self, scene: Scene) -> int:
    """Return the index of the first edit of a scene that cannot be computed."""
    for count in range(1, len(scene.edits) + 1):
      try:
        self._cache.compute(scene.base, scene.edits[:count])
      except InputError:
        return count - 1
    return len(scene.edits)

  def _name_objects(self) -> None:
    for obj in self.computed().layers:
      self.things.setdefault(obj, Thing(f'object {obj}'))

  def _check_label(self, obj: int) -> None:
    if not 1 <= obj <= self.limits.max_objects:
      raise InputError(f'there can be no object {obj}: this model knows {self.limits.max_objects}')

  def _check_labels(self, mask: np.ndarray) -> None:
    if (highest := int(mask.max(initial=0))) > self.limits.max_objects:
      raise InputError(
        f'the mask has an object {highest}, but this model knows {self.limits.max_objects}: number'
        f' the objects 1 to {self.limits.max_objects}'
      )

  def _check_frame(self, frame: int) -> None:
    if type(frame) is not int or not 0 <= frame < self.limits.frames:
      raise InputError(f'there is no frame {frame}; frames run from 0 to {self.limits.frames - 1}')

  def _check_path(self, edit: Edit) -> None:
    points = np.array(edit.values['points'], float)
    inside = (points >= 0) & (points < (self.limits.width, self.limits.height))
    if not inside.all(axis=1).any():
      raise InputError(
        'the path lies outside of the picture: draw it so that at least a part is inside'
      )


def proposal(ids: np.ndarray, seed: int) -> Base:
  """Return a trajectory of stage 1, label map uint8 [T, H, W], as the base of edits."""
  still = Base(f'proposal, seed {seed}', np.zeros_like(ids))
  return still.replaced(still.origin, split(ids))


def named_mask(ids: np.ndarray) -> np.ndarray:
  """Return a label map, uint8 [H, W], with every object of a trajectory that has room in it.

  It is frame 0, plus objects that enter later, with their first mask, on its background. A request
  has prompts of the objects in its mask only.
  """
  mask = ids[0].copy()
  for obj in np.unique(ids[ids > 0]).tolist():
    if not (mask == obj).any():
      first = ids[(ids == obj).any(axis=(1, 2)).argmax()] == obj
      mask[first & (mask == 0)] = obj
  return mask


def checked_text(text: Any, what: str) -> str:
  """Return a text on one line.

  Raises:
    InputError: If it is no text, too long, or contains markup.
  """
  if not isinstance(text, str):
    raise InputError(f'{what} must be a text')
  line = ' '.join(text.split())
  if (words := len(line.split())) > MOST_WORDS:
    raise InputError(f'{what} has {words} words: write at most {MOST_WORDS}')
  if len(line) > MOST_CHARACTERS:
    raise InputError(f'{what} has {len(line)} characters: write at most {MOST_CHARACTERS}')
  if found := _TAG.search(line):
    raise InputError(f'{what} contains markup ({found[0][:40]}): write plain words')
  return ''.join(c for c in line if c.isprintable())


def title(edit: Edit) -> str:
  """Return what an edit does, in words."""
  values, kind = edit.values, edit.kind
  obj = f'object {values["object"]}' if 'object' in values else ''
  first, last = values.get('start', 0), values.get('stop')
  span = f' in frames {first} to {"the end" if last is None else last}'
  at = ', '.join(map(str, edit.keyframes))
  return {
    'translate': lambda: f'Move {obj} (keys {at})',
    'follow': lambda: f'Move {obj} along a path{span}',
    'scale': lambda: f'Scale {obj} (keys {at})',
    'rotate': lambda: f'Rotate {obj} (keys {at})',
    'flip': lambda: f'Flip {obj}{span}',
    'depth': lambda: f'{values.get("step", "").capitalize()}: {obj}{span}',
    'pin': lambda: f'Pin {obj} as in frame {values["frame"]}',
    'hold': lambda: f'Hold {obj} from frame {values["from_frame"]}',
    'hide': lambda: f'Hide {obj}{span}',
    'delete': lambda: f'Delete {obj}',
    'duplicate': lambda: f'Duplicate {obj} as {values["new"]}',
    'retime': lambda: f'Retime {obj}',
    'repaint': lambda: f'Repaint {obj} in frame {first}{"" if last is None else f" to {last}"}',
    'fit_boxes': lambda: f'Fit {obj} to boxes',
    'camera': lambda: (
      f'Camera: {" and ".join(name for name in ("pan", "zoom") if name in values)} of objects'
      f' {", ".join(map(str, values["objects"]))}'
    ),
  }[kind]()
