"""ViCLIP similarity of the generated video with its caption, and with a reference video."""

import abc

import numpy as np

from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.frames import check_frames
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.per_sample import PerSampleNetwork
from ttm_jax.metrics.viclip_network import FRAMES, TOKENS, ViClip
from ttm_jax.pytorch.pretrained import check_texts


class _ViClipMetric(PerSampleNetwork):
  """Base of both: a cosine similarity of embeddings; subclasses set `of`, its second part."""

  higher_is_better = True
  of: str

  def __init__(self, options: MetricOptions):
    super().__init__(options)
    self.protocol = (
      f'Cosine similarity of ViCLIP embeddings ({options.networks.label("viclip", self.name)}) of'
      f' {FRAMES} evenly strided frames (224x224, no crop, ImageNet statistics) and {self.of}.'
    )

  def value(self, sample: Sample) -> float:
    check_frames(sample, self.name, FRAMES)
    network = self._options.networks.get('viclip', self.name)
    return float(network.video(sample.video) @ self.reference(network, sample))

  @abc.abstractmethod
  def reference(self, network: ViClip, sample: Sample) -> np.ndarray:
    """Return the embedding float64 [D] to compare with."""


class ViClipText(_ViClipMetric):
  """Agreement of the generated video with the caption (ViCLIP-T)."""

  name, title = 'viclip_text', 'ViCLIP text'
  reads_texts = True
  of = f'the caption, of up to {TOKENS} tokens'

  def reference(self, network: ViClip, sample: Sample) -> np.ndarray:
    check_texts([sample.clip.caption])
    tokenizer = self._options.networks.get('clip_tokenizer')
    tokens = tokenizer([sample.clip.caption], truncation=True, max_length=TOKENS)['input_ids']
    return network.texts(np.array(tokens, np.int64))[0]


class ViClipVideo(_ViClipMetric):
  """Similarity with the real clip that starts at the input image (ViCLIP-V)."""

  name, title = 'viclip_video', 'ViCLIP video'
  of = 'of the real clip'

  def reference(self, network: ViClip, sample: Sample) -> np.ndarray:
    return network.video(sample.clip.video)


class ViClipStatic(_ViClipMetric):
  """Similarity with the input image, repeated."""

  name, title = 'viclip_static', 'ViCLIP static'
  of = 'of the input image, repeated'

  def reference(self, network: ViClip, sample: Sample) -> np.ndarray:
    return network.video(np.repeat(sample.clip.video[:1], FRAMES, axis=0))
