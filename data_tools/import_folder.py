"""Make a clips dataset from videos with masks and captions.

  python -m data_tools.import_folder --source videos --captions videos/captions.json \\
    --out datasets/videos --frames 16 --fps 8 --size 64x96

Each key of the captions file names a folder under --source. The folder holds video.mp4 and a folder
of palette PNGs, one per frame, whose pixel values are object ids (0 is background). An entry of the
captions file has the caption (c), the motion prompt (c_motion) and one prompt per object id
(c_local):

  {"park/dog": {"c": "A dog runs after a red ball.",
                "c_motion": "The dog runs after the ball.",
                "c_local": {"1": "a dog that runs", "2": "a red ball that rolls"}}}

The report lists the outcome of every video, including those that are left out.
"""

import argparse
import dataclasses
from pathlib import Path

from data_tools.arguments import check_rate, parse_size
from data_tools.extras import front_door
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.importing import Imported, Report
from data_tools.sources.leftovers import leftovers
from data_tools.sources.vos import vos_videos
from ttm_jax.data.clips import write_clips
from ttm_jax.errors import InputError
from ttm_jax.outputs import check_apart


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--source', required=True, help='folder of the videos')
  add('--captions', required=True, help='JSON file, see above')
  add('--out', required=True, help='folder of the dataset; must be empty or not exist')
  add('--frames', type=int, required=True, help='frames per clip')
  add(
    '--fps',
    type=float,
    required=True,
    help='frames per second of the clips; faster videos are subsampled',
  )
  add('--source_fps', type=float, help='frames per second of image folders')
  add('--size', required=True, help='side in pixels, or HEIGHTxWIDTH, such as 64x96')
  add('--stride', type=int, help='frames from the start of one clip to the next; default --frames')
  add(
    '--validation',
    type=int,
    default=0,
    help='use the last N videos of the file for validation; default 0',
  )
  args = parser.parse_args(argv)
  with front_door():
    check_rate('--fps', args.fps)
    check_rate('--source_fps', args.source_fps)
    check_apart('--out', [args.out], {'--source': args.source, '--captions': args.captions})
    stride = args.frames if args.stride is None else args.stride
    window = Window(args.frames, stride, args.fps, parse_size(args.size))
    captions = read_captions(args.captions)
    if not 0 <= args.validation < len(captions):
      raise InputError(
        f'--validation {args.validation} leaves nothing of {len(captions)} videos to train on'
      )
    keys = list(captions)
    held_out = len(keys) - args.validation
    parts = {'train': keys[:held_out], 'validation': keys[held_out:]}
    source, out = Path(args.source), Path(args.out)
    videos = vos_videos(source, captions, args.source_fps)
    unread = leftovers(source, videos, table=Path(args.captions), outside=[out])
    report = Report(unread=unread)
    splits = {
      split: Imported(source, {key: captions[key] for key in part}, window, report, args.source_fps)
      for split, part in parts.items()
      if part
    }
    try:
      write_clips(out, splits, {'window': dataclasses.asdict(window)})
    finally:
      print(report)


if __name__ == '__main__':
  main()
