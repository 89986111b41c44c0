"""Does a generated video follow its trajectory? The objects are found again by their colours.

Made for scenes whose objects stand out by colour from each other and from the background, such as
the procedural ones; it needs no network. On natural videos the objects want a segmentation model.
"""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.motion import mean_iou

# Brightness (of which two fifths count, since texture, shading and blur change it more than they
# change the hue), blue difference and red difference of RGB, after ITU-R BT.601.
OPPONENT = np.array([[0.12, 0.235, 0.045], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]).T
MAX_DISTANCE = 80.0  # A pixel farther than this from every object colour is background.
BACKGROUND_COLOURS = 8
LEAST_SAME = 4  # Of 3x3 pixels: what the corner of a square has, so that it is not cut off.


def adherence(video: np.ndarray, picture: np.ndarray, ids: np.ndarray) -> float:
  """Mean IoU of the objects found in a video with the trajectory it was to follow.

  Args:
    video: uint8 [T, H, W, 3], generated.
    picture: uint8 [H, W, 3], the given first picture.
    ids: uint8 [T, H, W], the trajectory; its first frame belongs to `picture`.

  Returns:
    0..1, the mean of `motion.object_iou` over frames 2..T; NaN where there is nothing to find.
  """
  return mean_iou(find_by_colour(video, picture, ids[0]), ids)


def find_by_colour(video: np.ndarray, picture: np.ndarray, first_ids: np.ndarray) -> np.ndarray:
  """Label maps of a video whose first picture is labelled.

  A pixel belongs to the object whose mean colour in the picture is nearest to its own, unless a
  colour of the background is nearer or no object colour is near. The background's colours are a
  few found anywhere in the picture (k-means), and the picture's own at the same place, where it
  showed background. Pixels at the edges of the labels are left out of these models, as they mix
  colours. Then speckles are removed: a pixel with less than four of its label among its 3x3 takes
  the label most frequent there.

  Objects of one colour are not told apart: the one with the lowest id gets the pixels of all.

  Args:
    video: uint8 [T, H, W, 3].
    picture: uint8 [H, W, 3].
    first_ids: uint8 [H, W], the objects of `picture`.

  Returns:
    uint8 [T, H, W].
  """
  video, picture, first_ids = np.asarray(video), np.asarray(picture), np.asarray(first_ids)
  if video.shape[1:] != picture.shape or picture.shape[:2] != first_ids.shape:
    raise InputError(
      f'video {video.shape}, first picture {picture.shape} and label map {first_ids.shape}'
      ' must agree in height and width'
    )
  if video.dtype != np.uint8 or picture.dtype != np.uint8:
    raise InputError(
      f'video and first picture must be uint8, got {video.dtype} and {picture.dtype}'
    )
  look = picture @ OPPONENT
  pure = _pure(first_ids)
  behind = pure & (first_ids == 0)
  objects = np.unique(first_ids[first_ids > 0])
  if not objects.size:
    return np.zeros(video.shape[:3], np.uint8)
  areas = [first_ids == obj for obj in objects]
  # An object may be so thin that all of it is edge.
  areas = [area & pure if (area & pure).any() else area for area in areas]
  colours = np.stack([look[area].mean(0) for area in areas])
  background = _typical(look[behind], BACKGROUND_COLOURS)
  found = [_label(frame @ OPPONENT, look, behind, objects, colours, background) for frame in video]
  return np.stack([_without_speckles(ids) for ids in found])


def _label(look, picture, behind, objects, colours, background) -> np.ndarray:
  to_object = _distances(look, colours)
  nearest = to_object.min(-1)
  to_background = np.where(behind, np.linalg.norm(look - picture, axis=-1), np.inf)
  if len(background):
    to_background = np.minimum(to_background, _distances(look, background).min(-1))
  is_object = (nearest < to_background) & (nearest < MAX_DISTANCE)
  return np.where(is_object, objects[to_object.argmin(-1)], 0).astype(np.uint8)


def _distances(look: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Euclidean distances [..., N] of pixels [..., 3] to colours [N, 3]."""
  return np.linalg.norm(look[..., None, :] - colours, axis=-1)


def _typical(pixels: np.ndarray, number: int) -> np.ndarray:
  """At most `number` colours [K, 3] that represent pixels [N, 3]: k-means, without chance."""
  if not len(pixels):
    return pixels
  # Starting from the mean and then always the pixel farthest from all centres.
  centres = pixels.mean(0, keepdims=True)
  while len(centres) < number:
    distance = _distances(pixels, centres).min(-1)
    if not distance.max():
      break
    centres = np.concatenate([centres, pixels[distance.argmax(), None]])
  for _ in range(10):
    nearest = _distances(pixels, centres).argmin(-1)
    groups = [pixels[nearest == k] for k in range(len(centres))]
    centres = np.stack([group.mean(0) for group in groups if len(group)])
  return centres


def _pure(ids: np.ndarray) -> np.ndarray:
  """Pixels, bool [H, W], all of whose neighbours bear their label: no edge mixes their colours."""
  return (_around(ids) == ids).all(0)


def _around(ids: np.ndarray) -> np.ndarray:
  """The labels of the 3x3 pixels about each pixel, [9, H, W]; the frame's edge is repeated."""
  h, w = ids.shape
  padded = np.pad(ids, 1, mode='edge')
  return np.stack([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)])


def _without_speckles(ids: np.ndarray) -> np.ndarray:
  """Pixels [H, W] with few of their label around take the most frequent label of their 3x3."""
  labels, around = np.unique(ids), _around(ids)
  votes = np.stack([(around == label).sum(0) for label in labels])
  own = (around == ids).sum(0)
  return np.where(own < LEAST_SAME, labels[votes.argmax(0)], ids)
