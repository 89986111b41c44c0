"""Right attributes on the right object, in scenes of look-alike objects (`scenes.lookalikes`).

The color of each object is read where the target trajectory says that it is, away from edges, in
the generated and in the true video. An object is right if its color at the end of the clip is the
true one of the palette, and if it blinks exactly when the true one does.
"""

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.per_sample import PerSample
from ttm_jax.scenes.lookalikes import BLINK, CHANGES, change_of
from ttm_jax.scenes.shapes import COLORS

_CHROMA = np.array([np.array(color) / max(color) for color in COLORS.values()])
_LEAST_PIXELS = 4  # Of an object in a frame, away from its edges.
_DARK = 0.7  # Brightness below which an object counts as dark; scenes have 0.4.
_SATURATION = 0.52  # Objects have at least 0.75 and backgrounds at most 0.3.


class Attributes(PerSample):
  """The share of a clip's objects that have the right attributes."""

  name, title, higher_is_better = 'attributes', 'right attributes', True
  reads_texts = True
  changes: tuple[str, ...] = CHANGES
  protocol = (
    'right attributes: color at the end of the clip and blinking, read inside the target masks, of'
    ' all objects; per clip, then over clips.'
  )

  def value(self, sample: Sample) -> float:
    right = []
    for label, prompt in enumerate(sample.clip.prompts, 1):
      truth = attributes(sample.clip.video, sample.clip.ids, label)
      if truth is not None and change_of(prompt) in self.changes:
        right.append(attributes(sample.video, sample.target, label) == truth)
    return float(np.mean(right)) if right else float('nan')


class AttributesTold(Attributes):
  """The same for objects that change, as only their own prompt says."""

  name, title = 'attributes_told', 'right, told by own prompt'
  changes = ('turn', 'blink')
  protocol = 'right, told by own prompt: right attributes of objects that turn or blink.'


class AttributesKept(Attributes):
  """The same for objects that keep the color which only their own earlier pixels show."""

  name, title = 'attributes_kept', 'right, told by own pixels'
  changes = ('keep',)
  protocol = 'right, told by own pixels: right attributes of objects that keep their color.'


class ObjectPSNR(PerSample):
  """PSNR over the pixels of objects in frames 2..T, without the background around them."""

  name, title, higher_is_better = 'object_psnr', 'object PSNR (dB)', True
  protocol = (
    'object PSNR: over the pixels that are objects in the ground truth, frames 2..T, at most 60 dB.'
  )

  def value(self, sample: Sample) -> float:
    where = sample.clip.ids[1:] > 0
    if not where.any():
      return float('nan')
    difference = sample.clip.video[1:][where].astype(float) - sample.video[1:][where]
    return float(10 * np.log10(255**2 / max(np.mean(difference**2), 255**2 / 1e6)))


class ForegroundIoU(PerSample):
  """IoU of saturated pixels with the target's objects: adherence where all objects look alike."""

  name, title, higher_is_better = 'foreground_iou', 'foreground IoU', True
  protocol = (
    f'foreground IoU: pixels of HSV saturation above {_SATURATION} against the target masks, all'
    ' objects together, frames 2..T; for scenes only.'
  )

  def value(self, sample: Sample) -> float:
    target = sample.target[1:] > 0
    video = sample.video[1:].astype(float)
    high, low = video.max(-1), video.min(-1)
    found = (high - low) > _SATURATION * np.maximum(high, 1)
    either = (found | target).sum()
    return float((found & target).sum() / either) if either else float('nan')


def attributes(video: np.ndarray, ids: np.ndarray, label: int) -> tuple[int, bool] | None:
  """Return the color of an object at the end of a clip, and whether it blinks.

  Args:
    video: uint8 [T, H, W, 3].
    ids: the label maps that say where the object is, uint8 [T, H, W].
    label: the object.

  Returns:
    The index in `scenes.shapes.COLORS` of the color nearest to the mean in the last quarter of the
    clip, regardless of brightness, and whether it is darker in the dark phase of blinking. None if
    the object is hidden in that quarter, or in one of the two phases.
  """
  mask = _inner(ids == label)
  shown = mask.sum((1, 2)) >= _LEAST_PIXELS
  colors = np.array(
    [video[t][mask[t]].mean(0) if shown[t] else np.full(3, np.nan) for t in range(len(ids))]
  )
  frames = np.arange(len(ids))
  end, dark = shown & (frames >= 0.75 * len(ids)), frames // BLINK % 2 == 1
  if not end.any() or not (shown & dark).any() or not (shown & ~dark).any():
    return None
  chroma = colors[end].mean(0)
  chroma = chroma / max(chroma.max(), 1)
  nearest = int(np.linalg.norm(_CHROMA - chroma, axis=-1).argmin())
  light = colors.max(-1)
  return nearest, bool(light[shown & dark].mean() < _DARK * light[shown & ~dark].mean())


def _inner(mask: np.ndarray) -> np.ndarray:
  """Return the pixels of masks [T, H, W] whose 3x3 window is inside, or all if there are none."""
  padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
  h, w = mask.shape[1:]
  inner = np.all([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)
  return np.where(inner.any((1, 2), keepdims=True), inner, mask)
