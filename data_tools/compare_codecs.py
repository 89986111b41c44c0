"""Compare the reconstruction quality of codecs on validation clips.

    python -m data_tools.compare_codecs --clips datasets/scenes --codec runs/codec \\
        --codec linear:2x8x8x16

For each codec, print the number of latent values per clip, the PSNR of the videos in dB, and the
mean mask IoU of the objects. For the IoU, trajectories are rendered as RGB videos, encoded and
decoded with the codec, and converted back to label maps.
"""

import argparse

import numpy as np
import tqdm
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.errors import InputError, front_door, printable
from ttm_jax.metrics.evaluation import round_trip
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.video import psnr


def main() -> None:
  args = parser().parse_args()
  if args.count < 1:
    raise InputError(f'--count {args.count}: must be at least 1')
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


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m data_tools.compare_codecs',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--clips', required=True, help='clips dataset')
  made.add_argument(
    '--codec',
    action='append',
    required=True,
    help='as for data_tools.encode; repeat for each codec',
  )
  made.add_argument('--count', type=int, default=64, help='number of validation clips; default 64')
  made.add_argument(
    '--palette',
    choices=sorted(trajectory.PALETTES),
    default='spread8',
    help='colors in which label maps are rendered',
  )
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
