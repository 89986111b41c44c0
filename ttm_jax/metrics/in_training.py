"""Metrics of the samples that a run generates while it trains."""

from collections.abc import Sequence

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Metric, Sample
from ttm_jax.metrics.registry import MetricOptions, make
from ttm_jax.training.objective import Score

# Latents datasets hold embeddings of texts, and no texts.
READS_TEXTS = frozenset(
  ('object_prompt', 'viclip_text', 'attributes', 'attributes_told', 'attributes_kept')
)


def scorer(names: Sequence[str]) -> Score | None:
  """Return what scores samples by these metrics, for the train loop; None without metrics.

  Raises:
    InputError: a metric is unknown, or reads texts.
  """
  for name in names:
    if name in READS_TEXTS:
      raise InputError(
        f'config.train.metrics: "{name}" reads texts, which latents datasets do not have; compute'
        ' it with ttm_jax.evaluate'
      )
  metrics = make(names, MetricOptions())
  if not metrics:
    return None

  def score(
    truth: np.ndarray, generated: np.ndarray, ids: np.ndarray, fps: float
  ) -> dict[str, float]:
    samples = [
      Sample(_clip(f'sample {i}', video, labels, fps), made)
      for i, (video, made, labels) in enumerate(zip(truth, generated, ids, strict=True))
    ]
    return {metric.name: _number(metric, samples) for metric in metrics}

  return score


def _number(metric: Metric, samples: Sequence[Sample]) -> float:
  rows = metric.measure(samples)
  return metric.summarize(rows[~np.isnan(rows).any(1)])


def _clip(key: str, video: np.ndarray, ids: np.ndarray, fps: float) -> Clip:
  unnamed = ('',) * int(ids.max(initial=0))
  return Clip(key, video, ids, fps, caption='', motion='', names=unnamed, prompts=unnamed)
