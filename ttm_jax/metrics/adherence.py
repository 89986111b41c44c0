"""Trajectory adherence: the IoU of objects in a generated video with the input trajectory.

Objects are segmented by color, without a neural network. This works for scenes whose objects differ
in color from each other and from the background, such as the procedural scenes. Natural videos need
a segmentation model.
"""

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.metrics.motion import mean_iou

# Luma, blue difference and red difference of RGB, after ITU-R BT.601. Luma has a weight of 0.4,
# since texture, shading and blur change it more than they change hue.
OPPONENT = np.array([[0.12, 0.235, 0.045], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]).T
MAX_DISTANCE = 80.0  # A pixel farther than this from every object color is background.
BACKGROUND_COLORS = 8
LEAST_SAME = 4  # Minimum equal labels in a 3x3 window; the corner of a square has 4 and is kept.


def adherence(video: np.ndarray, picture: np.ndarray, ids: np.ndarray) -> float:
  """Return the mean IoU of the objects found in a video with its input trajectory.

  Args:
    video: uint8 [T, H, W, 3], the generated video.
    picture: uint8 [H, W, 3], the input image.
    ids: uint8 [T, H, W], the input trajectory; its first frame labels `picture`.

  Returns:
    Mean of `motion.object_iou` over frames 2..T, 0..1; NaN if the trajectory has no object there.

  Raises:
    InputError: shapes or dtypes do not match.
  """
  return mean_iou(find_by_color(video, picture, ids[0]), ids)


def find_by_color(video: np.ndarray, picture: np.ndarray, first_ids: np.ndarray) -> np.ndarray:
  """Return label maps of a video, segmented by the colors of a labeled first image.

  A pixel gets the label of the object whose mean color in the image is nearest. It is background if
  a background color is nearer, or if no object color is within `MAX_DISTANCE`. The background
  colors are the k-means centers of all background pixels of the image. Where the image shows
  background, its color at the same position counts too. Pixels at label edges mix colors and are
  excluded from these color models.

  A last step removes speckles: a pixel with fewer than four equal labels in its 3x3 window takes
  the most frequent label of the window.

  Objects of equal color are not distinguished: the lowest id gets the pixels of all of them.

  Args:
    video: uint8 [T, H, W, 3].
    picture: uint8 [H, W, 3].
    first_ids: uint8 [H, W], the label map of `picture`.

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: height and width do not match, or the pixels are not uint8.
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
  # Thin objects may have only edge pixels.
  areas = [area & pure if (area & pure).any() else area for area in areas]
  colors = np.stack([look[area].mean(0) for area in areas])
  background = _typical(look[behind], BACKGROUND_COLORS)
  found = [_label(frame @ OPPONENT, look, behind, objects, colors, background) for frame in video]
  return np.stack([_without_speckles(ids) for ids in found])


def _label(look, picture, behind, objects, colors, background) -> np.ndarray:
  to_object = _distances(look, colors)
  nearest = to_object.min(-1)
  to_background = np.where(behind, np.linalg.norm(look - picture, axis=-1), np.inf)
  if len(background):
    to_background = np.minimum(to_background, _distances(look, background).min(-1))
  is_object = (nearest < to_background) & (nearest < MAX_DISTANCE)
  return np.where(is_object, objects[to_object.argmin(-1)], 0).astype(np.uint8)


def _distances(look: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """Return the Euclidean distances [..., N] of pixels [..., 3] to colors [N, 3]."""
  # By channel: NumPy sums over an axis of three several times more slowly.
  squares = [(look[..., None, i] - colors[:, i]) ** 2 for i in range(3)]
  return np.sqrt(squares[0] + squares[1] + squares[2])


def _typical(pixels: np.ndarray, number: int) -> np.ndarray:
  """Return at most `number` k-means centers [K, 3] of pixels [N, 3], deterministically."""
  if not len(pixels):
    return pixels
  # Initialize with the mean, then repeatedly add the pixel farthest from all centers.
  centers = pixels.mean(0, keepdims=True)
  while len(centers) < number:
    distance = _distances(pixels, centers).min(-1)
    if not distance.max():
      break
    centers = np.concatenate([centers, pixels[distance.argmax(), None]])
  for _ in range(10):
    nearest = _distances(pixels, centers).argmin(-1)
    groups = [pixels[nearest == k] for k in range(len(centers))]
    centers = np.stack([group.mean(0) for group in groups if len(group)])
  return centers


def _pure(ids: np.ndarray) -> np.ndarray:
  """Return bool [H, W]: pixels whose 3x3 window has one label, so that no edge mixes colors."""
  return (_around(ids) == ids).all(0)


def _around(ids: np.ndarray) -> np.ndarray:
  """Return the labels of the 3x3 window of each pixel, [9, H, W], with edge padding."""
  h, w = ids.shape
  padded = np.pad(ids, 1, mode='edge')
  return np.stack([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)])


def _without_speckles(ids: np.ndarray) -> np.ndarray:
  """Replace isolated labels of a map [H, W] by the most frequent label of their 3x3 window."""
  labels, around = np.unique(ids), _around(ids)
  votes = np.stack([(around == label).sum(0) for label in labels])
  own = (around == ids).sum(0)
  return np.where(own < LEAST_SAME, labels[votes.argmax(0)], ids)
