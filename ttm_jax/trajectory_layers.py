"""Layers of a trajectory: one label map per object, and the depth order that joins them.

A label map tells only what is in front. Its layers also keep what is behind, so that an object that
was moved over another one can be moved away again. `ttm_jax.trajectory_edits` has the edits.
`recolor` and `lay_over` make other label maps of given ones, to train and compare codecs.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.keyframes import checked_range
from ttm_jax.trajectory import MAX_OBJECTS, check_ids, relabel

DepthStep = Literal['front', 'forward', 'backward', 'back']
DEPTH_STEPS: tuple[DepthStep, ...] = ('front', 'forward', 'backward', 'back')


def split(ids: np.ndarray) -> dict[int, np.ndarray]:
  """Return the layer of each object: the label map, uint8 [T, H, W], of this object alone.

  Raises:
    InputError: If `ids` is not a label map.
  """
  check_ids(ids)
  present = [int(obj) for obj in np.unique(ids) if obj]
  return {obj: np.where(ids == obj, np.uint8(obj), np.uint8(0)) for obj in present}


def merge(layers: Mapping[int, np.ndarray], order: np.ndarray | None = None) -> np.ndarray:
  """Join layers, at least one, to a label map.

  Args:
    layers: Layer of each object, uint8 [T, H, W], as `split` returns them.
    order: Depth order, uint8 [T, n]: in each frame the n objects from back to front; by default
      that of `depth_order`.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: If the layers are of different sizes, or the order lists other objects.
  """
  shapes = {layer.shape for layer in layers.values()}
  if len(shapes) != 1:
    raise InputError(f'layers must be of one size, got {sorted(shapes) or "none"}')
  order = depth_order(layers) if order is None else order
  if (
    order.shape != (len(next(iter(layers.values()))), len(layers))
    or (np.sort(order, axis=1) != sorted(layers)).any()
  ):
    raise InputError(f'a depth order must list the objects {sorted(layers)} in every frame')
  ids = np.zeros_like(next(iter(layers.values())))
  for frame, back_to_front in enumerate(order.tolist()):
    for obj in back_to_front:
      layer = layers[obj][frame]
      np.copyto(ids[frame], layer, where=layer > 0)
  return ids


def depth_order(layers: Mapping[int, np.ndarray]) -> np.ndarray:
  """Return the default order of layers, uint8 [T, n]: the objects from back to front.

  Smaller objects are in front; of two equal ones, that with the higher label. Sizes are mean areas
  over the frames that show the object.
  """
  areas = {obj: np.count_nonzero(layer, axis=(1, 2)) for obj, layer in layers.items()}
  return order_by_area(areas)


def order_by_area(areas: Mapping[int, np.ndarray]) -> np.ndarray:
  """Return `depth_order` of layers whose areas, int [T] each, are known: uint8 [T, n]."""
  size = {obj: area.sum() / max(1, np.count_nonzero(area)) for obj, area in areas.items()}
  order = sorted(areas, key=lambda obj: (-size[obj], obj))
  frames = len(next(iter(areas.values()))) if areas else 0
  return np.tile(np.array(order, np.uint8), (frames, 1))


def change_depth(
  order: np.ndarray, obj: int, step: DepthStep, start: int = 0, stop: int | None = None
) -> np.ndarray:
  """Move an object in the depth order, in frames `start` to `stop`.

  Args:
    order: uint8 [T, n], the objects from back to front; see `merge`.
    obj: Label of the object.
    step: 'front' or 'back' of all others, or one step 'forward' or 'backward'.
    start: First frame.
    stop: Last frame; by default that of the clip.

  Returns:
    uint8 [T, n].

  Raises:
    InputError: If the object, the step or a frame does not exist.
  """
  start, stop = checked_range(len(order), start, stop)
  if step not in DEPTH_STEPS:
    raise InputError(f'there is no depth step "{step}"; choose {", ".join(DEPTH_STEPS)}')
  if not (order == obj).any():
    raise InputError(f'the depth order has no object {obj}; choose one of {order[0].tolist()}')
  changed = order.copy()
  last = order.shape[1] - 1
  for frame in range(start, stop + 1):
    line = order[frame].tolist()
    at = line.index(obj)
    line.pop(at)
    to = {'front': last, 'back': 0, 'forward': min(at + 1, last), 'backward': max(at - 1, 0)}[step]
    line.insert(to, obj)
    changed[frame] = line
  return changed


def recolor(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Return a label map, uint8 [...], whose objects have random distinct labels from 1 to 8."""
  labels = 1 + rng.permutation(MAX_OBJECTS)
  return relabel(ids, dict(enumerate(labels.tolist(), start=1)))


def lay_over(front: np.ndarray, back: np.ndarray) -> np.ndarray:
  """Lay the objects of one label map over those of another.

  Objects behind get the labels after the last one in front; those above 8 are left out.

  Args:
    front, back: Label maps of one shape, uint8 [...].

  Returns:
    uint8 of this shape.
  """
  last = int(front.max(initial=0))
  moved = relabel(back, {label: label + last for label in range(1, MAX_OBJECTS - last + 1)})
  return np.where(front > 0, front, moved)
