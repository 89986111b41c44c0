"""What `python -m data_tools.compare_codecs` does."""

import argparse

import numpy as np
import tqdm
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttm_jax import trajectory
from ttm_jax.codecs.base import Codec
from ttm_jax.data.clips import Clips
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.errors import InputError, printable
from ttm_jax.metrics.evaluation import round_trip
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.video import psnr
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.trajectory_layers import lay_over, recolor

_IOUS = 'mask IoU', 'mask IoU, pairs of clips'  # Columns of the table.


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.compare_codecs`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  if args.count < 1:
    raise InputError(f'--count {args.count}: must be at least 1')
  keep_programs()
  train, held_out = Clips(args.clips, 'train'), Clips(args.clips, 'validation')
  clips = [held_out[i] for i in range(min(args.count, len(held_out)))]
  shapes = sorted({clip.ids.shape for clip in clips})
  if len(shapes) > 1:
    raise InputError(
      f'{args.clips}: its clips differ in frames, height, width ({shapes[0]} and {shapes[1]});'
      ' name a dataset of one shape'
    )
  labels = [clip.ids for clip in clips]
  crowds = [
    recolor(lay_over(front, back), np.random.default_rng(number))
    for number, (front, back) in enumerate(zip(labels, labels[1:] + labels[:1], strict=True))
  ]
  table = Table('codec', 'latent values', 'PSNR (dB)', *_IOUS, title=f'{len(clips)} clips')
  for name in tqdm.tqdm(args.codec, 'codecs', disable=None):
    codec = choose_codec(name, train, lambda clip: trajectory.render(clip.ids, args.palette))
    frames, height, width = clips[0].ids.shape
    down, right = codec.stride
    values = (
      (int(codec.frame_groups(frames)[-1]) + 1)
      * (height // down)
      * (width // right)
      * codec.channels
    )
    videos = round_trip(codec, [clip.video for clip in clips])
    quality = np.mean([psnr(c.video, v) for c, v in zip(clips, videos, strict=True)])
    ious = [f'{_iou(codec, maps, args.palette):.3f}' for maps in (labels, crowds)]
    table.add_row(escape(printable(name)), str(values), f'{quality:.2f}', *ious)
  Console().print(table)


def _iou(codec: Codec, labels: list[np.ndarray], palette: str) -> float:
  """Return the mean mask IoU of label maps that were rendered, encoded and decoded."""
  videos = round_trip(codec, [trajectory.render(ids, palette) for ids in labels])
  found = [
    trajectory.decode(video, ids[0], palette) for ids, video in zip(labels, videos, strict=True)
  ]
  return float(np.nanmean([mean_iou(a, b) for a, b in zip(found, labels, strict=True)]))
