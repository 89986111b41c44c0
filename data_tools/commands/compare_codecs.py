"""What `python -m data_tools.compare_codecs` does."""

import argparse

import numpy as np
import tqdm
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.errors import InputError, printable
from ttm_jax.metrics.evaluation import round_trip
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.video import psnr
from ttm_jax.parallel.compilation_cache import keep_programs


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
  rendered = [trajectory.render(clip.ids, args.palette) for clip in clips]
  table = Table('codec', 'latent values', 'PSNR (dB)', 'mask IoU', title=f'{len(clips)} clips')
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
    masks = [
      trajectory.decode(video, clip.ids[0], args.palette)
      for clip, video in zip(clips, round_trip(codec, rendered), strict=True)
    ]
    iou = np.nanmean([mean_iou(m, c.ids) for m, c in zip(masks, clips, strict=True)])
    table.add_row(escape(printable(name)), str(values), f'{quality:.2f}', f'{iou:.3f}')
  Console().print(table)
