"""What `python -m data_tools.point_lists` does."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.arguments import check_clip_flags, parse_window
from data_tools.layouts import benchmark_videos
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from data_tools.sources.points import PointMasks
from data_tools.sources.windows import Crop, clip_key, frame_numbers
from ttm_jax import atomic, outputs
from ttm_jax.errors import InputError, printable


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.point_lists`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  check_clip_flags(args)
  reads = {'--source': outputs.files_of(args.source), '--captions': args.captions}
  outputs.check('--out', [args.out], reads=reads, needed=2**20)
  window = parse_window(args.clip, args.fps, args.stride)
  table = Path(args.captions) if args.captions else None
  videos, _ = benchmark_videos(Path(args.source), args.kind, table, args.source_fps)
  found = dict(each for video in videos for each in point_lists(video, window))
  if not found:
    raise InputError(f'{args.source}: no video has point tracks and is long enough for a clip')
  with outputs.writing(args.out, 'name another --out'):
    atomic.write_text(args.out, json.dumps(found))
  print(printable(f'{args.out}: points of {len(found)} clips'))


def point_lists(video: Video, window: Window) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield the key and the points of each clip of a video; nothing if it has no tracks.

  Raises:
    InputError: if the video or its tracks cannot be read.
  """
  if not isinstance(video.masks, PointMasks):
    return
  seen = video.probe()
  crop = Crop.central(seen.size, window.size, seen.aspect)
  for numbers in frame_numbers(video, window):
    points = video.masks.points
    xy = crop.points(points.xy[numbers]).swapaxes(0, 1)
    yield (
      clip_key(video, numbers),
      {'points': xy.round(3).tolist(), 'visible': points.visible[numbers].T.tolist()},
    )
