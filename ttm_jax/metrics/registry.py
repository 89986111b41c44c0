"""All metrics by name."""

from collections.abc import Callable, Mapping, Sequence

from ttm_jax.errors import InputError, nearest
from ttm_jax.metrics.adherence_metrics import (
  AdherenceColor,
  AdherenceSam2,
  BoundarySam2,
  BoxIou,
  MaskIou,
)
from ttm_jax.metrics.base import Metric
from ttm_jax.metrics.clip_similarity import Aesthetic, ClipFrame, ObjectDrift, ObjectPrompt
from ttm_jax.metrics.color_drift import ColorDrift
from ttm_jax.metrics.displacement import Displacement
from ttm_jax.metrics.fvd import Fvd
from ttm_jax.metrics.jedi import Jedi
from ttm_jax.metrics.lookalike import (
  Attributes,
  AttributesKept,
  AttributesTold,
  ForegroundIoU,
  ObjectPSNR,
)
from ttm_jax.metrics.lpips import Lpips
from ttm_jax.metrics.motion_accuracy import Direction
from ttm_jax.metrics.networks import NETWORKS
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.pixels import FirstFrame, Psnr, Ssim
from ttm_jax.metrics.pooled_frechet import PooledFrechet
from ttm_jax.metrics.track_error import TrackError
from ttm_jax.metrics.viclip import ViClipStatic, ViClipText, ViClipVideo

METRICS: Mapping[str, Callable[[MetricOptions], Metric]] = {
  metric.name: metric
  for metric in (
    *(Psnr, Ssim, Lpips, Fvd, Jedi),
    *(AdherenceColor, AdherenceSam2, BoundarySam2, MaskIou, BoxIou, TrackError),
    *(FirstFrame, ClipFrame, ObjectDrift, ColorDrift, ObjectPrompt),
    *(ViClipText, ViClipVideo, ViClipStatic, Displacement, Aesthetic),
    *(PooledFrechet, Direction),
    *(Attributes, AttributesTold, AttributesKept, ObjectPSNR, ForegroundIoU),
  )
}
"""Makers of metrics by name. Making one is cheap: weights are loaded by the first `measure`."""


def make(names: Sequence[str], options: MetricOptions) -> list[Metric]:
  """Return metrics in the order of their names, which share their networks.

  Raises:
    InputError: if a name is unknown or given twice, or weights are given for an unknown name.
  """
  for name in names:
    if name not in METRICS:
      raise InputError(
        f'unknown metric "{name}"{nearest(name, METRICS)}; there are {", ".join(METRICS)}'
      )
    if list(names).count(name) > 1:
      raise InputError(f'the metric "{name}" is named twice; name it once')
  known = [*METRICS, *NETWORKS]
  for name in options.weights:
    if name not in known:
      raise InputError(
        f'weights are given for "{name}", which is no metric and no network'
        f'{nearest(name, known)}; networks are {", ".join(NETWORKS)}'
      )
  return [METRICS[name](options) for name in names]
