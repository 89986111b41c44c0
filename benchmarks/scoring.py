"""Benchmark the metrics that need no network: seconds of one core by metric.

    python -m benchmarks.scoring [--clips 128] [--size 256] [--frames 16]

Scores scenes with noise added, twice with the same cache: the second time must measure nothing.
Prints process time, which other work on the machine hardly changes.
"""

import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from ttm_jax.arguments import command_parser
from ttm_jax.metrics.base import Sample
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make
from ttm_jax.metrics.rows_cache import digest, measure_cached
from ttm_jax.scenes.generator import SceneConfig, scene

# Metrics for scenes need no network either; the rest of the registry does.
METRICS = (
  *('psnr', 'ssim', 'first_frame', 'adherence_color', 'color_drift', 'pooled_frechet'),
  *('object_psnr', 'foreground_iou'),
)


def main() -> None:
  parser = command_parser('benchmarks.scoring', __doc__)
  parser.add_argument('--clips', type=int, default=128, help='number of clips; default 128')
  parser.add_argument('--size', type=int, default=256, help='height and width; default 256')
  parser.add_argument('--frames', type=int, default=16, help='frames of a clip; default 16')
  args = parser.parse_args()
  config = SceneConfig(size=(args.size, args.size), frames=args.frames)
  samples = [noisy(config, i) for i in range(args.clips)]
  table = Table('metric', 'seconds', 'seconds, second call')
  begin = time.process_time()
  names = [digest(sample) for sample in samples]
  table.add_row('digests of the samples', f'{time.process_time() - begin:.1f}', '')
  with tempfile.TemporaryDirectory() as cache:
    for metric in make(METRICS, MetricOptions()):
      seconds = []
      for _ in range(2):
        begin = time.process_time()
        rows = measure_cached(metric, samples, cache, digests=names)
        metric.summarize(rows[~np.isnan(rows).any(1)])
        seconds.append(f'{time.process_time() - begin:.2f}')
      table.add_row(metric.name, *seconds)
  Console().print(table)


def noisy(config: SceneConfig, index: int) -> Sample:
  """Return a scene beside itself with noise."""
  clip = scene(config, index)
  noise = np.random.default_rng(index).normal(0, 8, clip.video.shape)
  video = np.clip(clip.video + noise, 0, 255).astype(np.uint8)
  return Sample(clip, video, clip.ids)


if __name__ == '__main__':
  main()
