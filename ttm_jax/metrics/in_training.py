"""Metrics of the samples that a run generates while it trains."""

from collections.abc import Sequence

import numpy as np

from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.metrics.base import Metric, Sample
from ttm_jax.metrics.registry import MetricOptions, make
from ttm_jax.training.best import LOSS, Best
from ttm_jax.training.objective import Score


def scorer(names: Sequence[str]) -> Score | None:
  """Return what scores samples by these metrics, for the train loop; None without metrics.

  Raises:
    InputError: a metric is unknown, or reads texts.
  """
  metrics = make(names, MetricOptions())
  for metric in metrics:
    if metric.reads_texts:  # Latents datasets hold embeddings of texts, and no texts.
      raise InputError(
        f'config.train.metrics: "{metric.name}" reads texts, which latents datasets do not have;'
        ' compute it with ttm_jax.evaluate'
      )
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


def best(name: str) -> Best | None:
  """Return how to rate checkpoints by a metric or by 'loss'; None for an empty name.

  Raises:
    InputError: the metric is unknown.
  """
  if not name:
    return None
  if name == LOSS:
    return Best(name)
  (metric,) = make((name,), MetricOptions())
  return Best(name, metric.higher_is_better)


def _number(metric: Metric, samples: Sequence[Sample]) -> float:
  rows = metric.measure(samples)
  return metric.summarize(rows[~np.isnan(rows).any(1)])


def _clip(key: str, video: np.ndarray, ids: np.ndarray, fps: float) -> Clip:
  unnamed = ('',) * int(ids.max(initial=0))
  return Clip(key, video, ids, fps, caption='', motion='', names=unnamed, prompts=unnamed)
