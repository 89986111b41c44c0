"""MoveBench, the benchmark of Wan-Move for point control (arXiv 2512.08765).

Get it with `hf download Ruihang/MoveBench --repo-type dataset --local-dir MoveBench`, and unpack
the archives in it. The layout is that of the evaluation code in ali-vilab/Wan-Move:

    en/single_track.txt  en/multi_track.txt              lines NAME.mp4,CAPTION
    en/first_frame/NAME.jpg                              the input image
    en/track/single/NAME_tracks.npy  NAME_visibility.npy
    en/track/multi/...                                   point tracks, see `sources.points`

A video NAME with any extension is read if there is one under the folder; else the input image is
repeated, at 16 fps. The mask of the first frame is NAME.png in a folder first_frame_mask, or in
its subfolder of the mode, if there is one. Where videos and masks lie was not verified.
"""

import dataclasses
from pathlib import Path

from data_tools.sources.base import Video, check_folder, unique, within
from data_tools.sources.descriptions import Description
from data_tools.sources.points import PointMasks
from ttm_jax.data.texts import lines_of, read_text
from ttm_jax.errors import InputError
from ttm_jax.media.video_reader import is_video

MODES = ('single', 'multi')
FPS = 16.0  # Of Wan: 81 frames are five seconds.
_LANGUAGE = 'en'


def movebench(root: Path, mode: str) -> list[Video]:
  """Return the videos of a mode, in the order of its list.

  Args:
    root: folder of the benchmark, or of one of its languages.
    mode: an element of MODES, tracks of one object or of several.

  Raises:
    InputError: if the list or a track is missing, or a line of the list has no caption.
  """
  check_folder(root)
  name = f'{mode}_track.txt'
  place = next((f for f in (root, root / _LANGUAGE) if (f / name).is_file()), None)
  if place is None:
    raise InputError(f'{root}: contains no {name}, nor {_LANGUAGE}/{name}; check the path')
  films = {path.stem: path for path in sorted(place.rglob('*')) if is_video(path)}
  videos = []
  for number, line in enumerate(lines_of(read_text(place / name)), 1):
    if not line.strip() or line.startswith('#'):
      continue
    where = f'{place / name}: line {number}'
    file, comma, caption = line.partition(',')
    if not comma or not caption.strip():
      raise InputError(f'{where} has no caption; write NAME.mp4,CAPTION')
    videos.append(_video(place, where, Path(file.strip()).stem, caption.strip(), mode, films))
  return unique(videos, str(place / name))


def _video(
  place: Path, where: str, name: str, caption: str, mode: str, films: dict[str, Path]
) -> Video:
  said = Description(caption, '', {}, {})
  folder = within(place / 'track' / mode, name).parent
  tracks, visibility = (folder / f'{name}_{what}.npy' for what in ('tracks', 'visibility'))
  for file in (tracks, visibility):
    if not file.is_file():
      raise InputError(f'{where}: there is no {file}; unpack the whole benchmark')
  pictures = [place / 'first_frame_mask' / part / f'{name}.png' for part in (mode, '')]
  first = next((str(picture) for picture in pictures if picture.is_file()), '')
  masks = PointMasks(str(tracks), str(visibility), first, mode == 'single', '')
  if name in films:
    path = str(films[name])
    return Video(name, path, said, dataclasses.replace(masks, path=path))
  picture = place / 'first_frame' / f'{name}.jpg'
  if not picture.is_file():
    raise InputError(
      f'{where}: there is neither a video {name} nor {picture}; unpack the whole benchmark'
    )
  frames = len(masks.points.xy)
  masks = dataclasses.replace(masks, path=str(picture), fps=FPS, repeat=frames)
  return Video(name, str(picture), said, masks, FPS, repeat=frames)
