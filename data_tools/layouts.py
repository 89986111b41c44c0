"""The layouts of sources that `data_tools.prepare` reads, by their names in --kind."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from data_tools import job
from data_tools.layout_names import BENCHMARKS
from data_tools.sources.base import VIDEOS, Video, check_folder
from data_tools.sources.benchmark import excluded_ids, read_list
from data_tools.sources.captioned import captioned, table_of
from data_tools.sources.descriptions import Description, read_captions
from data_tools.sources.leftovers import Leftover, leftovers
from data_tools.sources.listed import LIST, listed_videos
from data_tools.sources.magicdata import magicdata
from data_tools.sources.movebench import movebench
from data_tools.sources.sav import sav_videos
from data_tools.sources.vos import vos_videos
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError


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
  elif kind in BENCHMARKS:
    videos, table = benchmark_videos(source, kind, table, args.source_fps)
    if not args.llm:
      videos = [captions_only(video) for video in videos]
  else:
    said = read_captions(table) if table else None
    if kind == 'vos':
      videos = vos_videos(source, said, args.source_fps)
    else:
      videos, left_out = _sav(args, source, said)
  out = Path(args.out)
  mine = (out, job.work_folder(out))
  unread = leftovers(source, videos, table=table, known=known, excluded=left_out, outside=mine)
  return videos, unread


def _sav(
  args: argparse.Namespace, source: Path, said: Mapping[str, Description] | None
) -> tuple[list[Video], list[str]]:
  """Return the videos of SA-V that --ids and --exclude leave, and the ids of the others."""
  kinds = args.masklets.split(',')
  if args.ids:
    wanted = read_list(args.ids)
    every, _ = sav_videos(source, said, kinds)
    videos = listed(every, wanted, args.ids)
    print(f'SA-V: the {len(videos)} videos that --ids {args.ids} lists')
    return videos, sorted({video.key for video in every} - wanted)
  excluded = excluded_ids(args.exclude, args.offline)
  videos, left_out = sav_videos(source, said, kinds, excluded)
  print(
    f'SA-V: {len(videos)} videos, {len(left_out)} left out of the {len(excluded)} that'
    f' --exclude {args.exclude} lists'
  )
  return videos, left_out


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


def benchmark_videos(
  source: Path, kind: str, table: Path | None, fps: float | None
) -> tuple[list[Video], Path | None]:
  """Return the videos of a benchmark, and its table.

  Args:
    source: folder of the benchmark.
    kind: an element of BENCHMARKS.
    table: list or table of captions, if not in the folder.
    fps: frames per second of images without a rate of their own.

  Raises:
    InputError: if the benchmark cannot be read, or `table` is given for one with its own captions.
  """
  name, _, part = kind.partition('-')
  if name == 'list':
    return listed_videos(source, table, fps), table or source / LIST
  if table and name == 'movebench':
    raise InputError(f'--captions: --kind {kind} has captions already; remove this flag')
  if name == 'movebench':
    return movebench(source, part), None
  return magicdata(source, part, table)


def captions_only(video: Video) -> Video:
  """Return a video of which only the caption is known, with the caption as every other prompt.

  A benchmark has one text per video. With a language model, the steps derive the prompts instead.
  """
  said = video.description
  texts = dataclasses.replace(
    said,
    motion=said.motion or said.caption,
    names=said.names or dict.fromkeys(range(1, MAX_OBJECTS + 1), 'object'),
    prompts=said.prompts or dict.fromkeys(range(1, MAX_OBJECTS + 1), said.caption),
  )
  return dataclasses.replace(video, description=texts)
