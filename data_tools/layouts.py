"""The layouts of sources that `data_tools.prepare` reads, by their names in --kind."""

import argparse
from pathlib import Path

from data_tools import job
from data_tools.sources.base import VIDEOS, Video, check_folder
from data_tools.sources.benchmark import excluded_ids, read_list
from data_tools.sources.captioned import captioned, table_of
from data_tools.sources.descriptions import read_captions
from data_tools.sources.leftovers import Leftover, leftovers
from data_tools.sources.sav import sav_videos
from data_tools.sources.vos import vos_videos
from ttm_jax.errors import InputError

LAYOUTS = ('auto', 'captioned', 'vos', 'sav')


def layout(args: argparse.Namespace) -> str:
  """Return the layout of the source: `captioned`, `vos` or `sav`.

  Raises:
    InputError: if the source folder does not exist.
  """
  source = Path(args.source)
  check_folder(source)
  if args.kind != 'auto':
    return args.kind
  if next(source.rglob('*_manual.json'), None) or next(source.rglob('*_auto.json'), None):
    return 'sav'
  # Animated images may be previews of masks.
  films = [f for f in source.iterdir() if f.suffix.lower() in {*VIDEOS} - {'.gif', '.apng'}]
  if films or (source / 'videos').is_dir():
    return 'captioned'
  masks = (f for f in source.rglob('*') if f.suffix.lower() in ('.png', '.bmp', '.tif', '.tiff'))
  if (source / 'Annotations').is_dir() or next(masks, None):
    return 'vos'
  return 'captioned'


def list_videos(args: argparse.Namespace, kind: str) -> tuple[list[Video], list[Leftover]]:
  """Return the videos of the source, and the files that no video uses.

  Raises:
    InputError: if the source cannot be read, or, for SA-V, the list of excluded videos.
  """
  source = Path(args.source)
  table = Path(args.captions) if args.captions else None
  known: dict[str, str] = {}
  left_out: list[str] = []
  if args.ids and kind != 'sav':
    raise InputError(f'--ids: lists videos of SA-V, but --kind is {kind}; remove this flag')
  if kind == 'captioned':
    videos, known = captioned(source, table)
    table = table or table_of(source)
  else:
    said = read_captions(table) if table else None
    if kind == 'vos':
      videos = vos_videos(source, said, args.source_fps)
    else:
      kinds = args.masklets.split(',')
      if args.ids:
        wanted = read_list(args.ids)
        videos, _ = sav_videos(source, said, kinds)
        left_out = sorted({video.key for video in videos} - wanted)
        videos = listed(videos, wanted, args.ids)
        print(f'SA-V: the {len(videos)} videos that --ids {args.ids} lists')
      else:
        excluded = excluded_ids(args.exclude, args.offline)
        videos, left_out = sav_videos(source, said, kinds, excluded)
        print(
          f'SA-V: {len(videos)} videos, {len(left_out)} left out of the {len(excluded)} that'
          f' --exclude {args.exclude} lists'
        )
  out = Path(args.out)
  mine = (out, job.work_folder(out))
  unread = leftovers(source, videos, table=table, known=known, excluded=left_out, outside=mine)
  return videos, unread


def listed(videos: list[Video], wanted: frozenset[str], where: str) -> list[Video]:
  """Return the videos whose keys are wanted, in order.

  Raises:
    InputError: if a wanted video is missing.
  """
  missing = sorted(wanted - {video.key for video in videos})
  if missing:
    more = f' and {len(missing) - 1} others' if len(missing) > 1 else ''
    raise InputError(f'{where}: {missing[0]}{more} not in the source; add the videos')
  return [video for video in videos if video.key in wanted]
