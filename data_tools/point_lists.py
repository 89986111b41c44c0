"""Write the point tracks of a benchmark as lists, in the pixels and frames of its clips.

    python -m data_tools.prepare --source MoveBench --kind movebench-single --out datasets/move \\
        --clip 81x256x448 --fps 16
    python -m data_tools.point_lists --source MoveBench --kind movebench-single \\
        --clip 81x256x448 --fps 16 --out datasets/move_points.json

Give the same --clip, --fps and --stride as for the clips. The file maps the key of each clip to its
points: `points[n][t]` is the position (x, y) of point n in frame t, in pixels of the clip, where
integers are pixel centers; `visible[n][t]` is true or false. Points that the crop cuts off lie
outside of the frame. Metrics of point control compare them with the tracks of generated videos.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_tools.arguments import add_clip_flags, check_clip_flags
from data_tools.layouts import BENCHMARKS, benchmark_videos
from data_tools.prepare import parse_window
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from data_tools.sources.points import PointMasks
from data_tools.sources.windows import Crop, clip_key, frame_numbers
from ttm_jax import atomic, outputs
from ttm_jax.errors import InputError, front_door, printable


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  with front_door():
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


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m data_tools.point_lists',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = made.add_argument
  add('--source', required=True, help='folder of the benchmark')
  add('--kind', required=True, choices=BENCHMARKS, help='layout of the benchmark')
  add('--captions', help='list or table of the benchmark')
  add('--clip', required=True, help='FRAMESxHEIGHTxWIDTH')
  add('--out', required=True, help='output file, .json')
  add_clip_flags(made)
  return made


if __name__ == '__main__':
  main()
