"""Metrics by CLIP embeddings: consistency of frames, prompts and looks of objects, aesthetics."""

import numpy as np
from PIL import Image

from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.crops import object_crop
from ttm_jax.metrics.frames import check_frames, evenly
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.per_sample import PerSampleNetwork

FRAMES = 8  # Frames per object or clip, where not all are used.
SIDE = 480  # Pixels; the protocol of CLIPFrame resizes frames twice.


class ClipFrame(PerSampleNetwork):
  """Consistency of the frames (CLIPFrame), as in the LOVEU-TGVE 2023 challenge."""

  name, title, higher_is_better = 'clip_frame', 'CLIP frame', True

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Mean cosine similarity of CLIP embeddings ({options.networks.label("clip", self.name)}) of'
      f' all ordered pairs of different frames, each resized to {SIDE}x{SIDE} (bicubic) before the'
      ' image processor.'
    )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, 2)
    frames = [np.asarray(Image.fromarray(f).resize((SIDE, SIDE))) for f in sample.video]
    embedded = self._options.networks.get('clip', self.name).images(frames).astype(np.float64)
    similarity, count = embedded @ embedded.T, len(embedded)
    return (similarity.sum() - np.trace(similarity)) / (count * (count - 1))


class ObjectPrompt(PerSampleNetwork):
  """Agreement of each object with its own prompt.

  Pixels around the object stay in the crop. A crop that is cut out along the target mask would show
  the right silhouette, whatever was generated inside.
  """

  name, title, higher_is_better = 'object_prompt', 'object-prompt CLIP', True
  reads_texts = True

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Cosine similarity of CLIP embeddings ({options.networks.label("clip", self.name)}) of an'
      " object's prompt and its square crops, with background, at the target trajectory in up to"
      f' {FRAMES} evenly spaced frames that show it; mean over the objects of a clip.'
    )

  def value(self, sample: Sample) -> float:
    encoders, target, values = self._options.networks.get('clip', self.name), sample.target, []
    for obj, prompt in enumerate(sample.clip.prompts, 1):
      frames = _shown(target, obj)
      if not prompt or not frames.size:
        continue
      crops = [object_crop(sample.video[t], target[t] == obj) for t in frames]
      values.append((encoders.images(crops) @ encoders.texts([prompt])[0]).mean())
    return float(np.mean(values)) if values else float('nan')


class ObjectDrift(PerSampleNetwork):
  """Change of the look of each object since frame 0.

  Everything outside of the mask is blank, so that a new background behind a moving object is no
  drift.
  """

  name, title, higher_is_better = 'object_drift', 'object drift', False

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'1 - cosine similarity of CLIP embeddings ({options.networks.label("clip", self.name)}) of'
      " an object's crops, without background, in frame 0 and in up to"
      f' {FRAMES} evenly spaced later frames of the target trajectory that show it; mean over the'
      ' objects of a clip that frame 0 shows.'
    )

  def value(self, sample: Sample) -> float:
    encoders, target, values = self._options.networks.get('clip', self.name), sample.target, []
    for obj in np.unique(target[0][target[0] > 0]):
      frames = 1 + _shown(target[1:], obj)
      if frames.size:
        shown = [0, *frames.tolist()]
        crops = [object_crop(sample.video[t], target[t] == obj, blank=True) for t in shown]
        first, *later = encoders.images(crops)
        values.append(1 - np.mean(np.stack(later) @ first))
    return float(np.mean(values)) if values else float('nan')


class Aesthetic(PerSampleNetwork):
  """Aesthetic score of the frames by the LAION predictor, about 1 to 10."""

  name, title, higher_is_better = 'aesthetic', 'aesthetic score', True

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    networks = options.networks
    self.protocol = (
      f'Linear aesthetic score ({networks.label("aesthetic", self.name)}) of CLIP embeddings'
      f' ({networks.label("clip")}), mean over {FRAMES} evenly spaced frames.'
    )

  def value(self, sample: Sample) -> float:
    networks = self._options.networks
    weight, bias = networks.get('aesthetic', self.name)
    images = networks.get('clip').images
    if images.dim != len(weight):
      raise InputError(
        f'the head of the metric {self.name} needs embeddings of width {len(weight)}, but CLIP has'
        f' {images.dim}; give the head of this CLIP model'
      )
    frames = sample.video[evenly(len(sample.video), FRAMES)]
    return float((images(frames) @ weight + bias).mean())


def _shown(ids: np.ndarray, obj: int) -> np.ndarray:
  """Return up to FRAMES numbers of the frames of label maps [T, H, W] that show an object."""
  frames = np.flatnonzero((ids == obj).any((1, 2)))
  return frames[np.unique(evenly(len(frames), FRAMES))] if frames.size else frames
