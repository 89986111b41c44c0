"""Videos with masks or boxes in parallel folders, the layout of MagicData (arXiv 2503.16421).

    MagicData.csv                                 captions, a table as in `sources.captioned`
    videos/NAME.mp4
    masks/NAME/annotated_frame_00000.png ...      one image per frame, each color an object
    boxs/NAME/annotated_frame_00000.png ...       the same with filled boxes

The folders are those of the dataset card of quanhaol/MagicData. The columns of its table, and the
layouts of the authors' benchmarks MagicBench and FlashBench, were not verified. Bring a benchmark
of another layout into this one, or into that of `sources.listed`.
"""

import dataclasses
from pathlib import Path

from data_tools.sources.base import Video, check_folder
from data_tools.sources.captioned import captioned, table_of
from data_tools.sources.vos import FileMasks
from ttm_jax.errors import InputError

FOLDERS = {'masks': ('masks',), 'boxes': ('boxs', 'boxes')}


def magicdata(root: Path, what: str, table: Path | None = None) -> tuple[list[Video], Path | None]:
  """Return the videos that have masks, in the order of the table, and the table.

  Args:
    root: folder of the dataset.
    what: a key of FOLDERS, the objects' masks or their boxes.
    table: the captions; by default the only CSV file in the folder, if there is one.

  Raises:
    InputError: if there are no videos or no masks, or the table cannot be read.
  """
  check_folder(root)
  if not (root / 'videos').is_dir():
    raise InputError(f'{root}: contains no folder videos; check the path')
  folder = next((root / name for name in FOLDERS[what] if (root / name).is_dir()), None)
  if folder is None:
    raise InputError(f'{root}: contains no folder {" or ".join(FOLDERS[what])}; check the path')
  tables = sorted(root.glob('*.csv'))
  table = table or table_of(root) or (tables[0] if len(tables) == 1 else None)
  found, _ = captioned(root, table)
  videos = []
  for video in found:
    masks = folder / Path(video.key).name
    problem = '' if masks.is_dir() else f'{video.path}: there is no {masks}; add its masks'
    videos.append(
      dataclasses.replace(video, masks=FileMasks(str(masks)), problem=video.problem or problem)
    )
  return videos, table
