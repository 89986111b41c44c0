"""What `python -m data_tools.import_folder` does."""

import argparse
import dataclasses
from pathlib import Path

from data_tools.arguments import check_clip_flags, parse_size, training_videos
from data_tools.sources.descriptions import Window, read_captions
from data_tools.sources.importing import Imported, Part, Report
from data_tools.sources.leftovers import leftovers
from data_tools.sources.vos import vos_videos
from ttm_jax.data.clips import write_clips
from ttm_jax.errors import InputError
from ttm_jax.outputs import check_apart


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.import_folder`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  check_clip_flags(args)
  windows = args.validation_windows
  if windows < 0:
    raise InputError(f'--validation_windows {windows} must be at least 0')
  if windows and args.validation:
    raise InputError('--validation and --validation_windows hold out both: give one of the two')
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
  if windows:
    parts = dict.fromkeys(('train', 'validation'), keys)
  splits = {
    split: Imported(
      source,
      {key: captions[key] for key in part},
      window,
      report,
      args.source_fps,
      Part(windows, split == 'validation') if windows else None,
    )
    for split, part in parts.items()
    if part
  }
  try:
    write_clips(out, splits, {'window': dataclasses.asdict(window)})
  finally:
    print(report)
