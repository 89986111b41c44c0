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

from data_tools.arguments import add_clip_flags, check_clip_flags, parse_size, training_videos
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.importing import Imported, Report
from data_tools.sources.leftovers import leftovers
from data_tools.sources.vos import vos_videos
from ttm_jax.data.clips import write_clips
from ttm_jax.errors import front_door
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
  add('--size', required=True, help='side in pixels, or HEIGHTxWIDTH, such as 64x96')
  add_clip_flags(parser)
  args = parser.parse_args(argv)
  with front_door():
    check_clip_flags(args)
    check_apart('--out', [args.out], {'--source': args.source, '--captions': args.captions})
    window = Window(args.frames, args.stride or args.frames, args.fps, parse_size(args.size))
    captions = read_captions(args.captions)
    keys = list(captions)
    held_out = training_videos(len(keys), args.validation)
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
