"""Videos with masks and descriptions straight to clips: a source without any step behind it."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_tools.drafts import Reject, to_clip
from data_tools.report import shown
from data_tools.sources import leftovers
from data_tools.sources.descriptions import Description, PathLike, Window
from data_tools.sources.leftovers import Leftover
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import Cut, drafts, expected
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError


@dataclasses.dataclass
class Report:
  """What an import did, and what it left out and why; filled while the clips are drawn.

  Attributes:
    clips: how many clips came out.
    sources: how each source was read, or why it could not be, in order.
    rejected: how many windows were left out, by reason.
    backgrounded: how many objects were made background in their window, by reason.
    unread: what lies in the source and no video uses.
  """

  clips: int = 0
  sources: dict[str, str] = dataclasses.field(default_factory=dict)
  rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  backgrounded: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  unread: list[Leftover] = dataclasses.field(default_factory=list)

  def __str__(self) -> str:
    lines = [f'{self.clips} clips from {len(self.sources)} sources']
    lines += [f'  {key}: {how}' for key, how in self.sources.items()]
    lines += [f'  left out {n}: {why}' for why, n in self.rejected.items()]
    lines += [f'  objects made background {n}: {why}' for why, n in self.backgrounded.items()]
    lines += [f'  {line}' for line in leftovers.lines(self.unread)]
    return '\n'.join(shown(line) for line in lines)


class Imported:
  """The clips of `import_clips`, about as many as a progress bar wants to know."""

  def __init__(
    self,
    root: PathLike,
    captions: Mapping[str, Description],
    window: Window,
    report: Report,
    fps: float | None = None,
  ):
    """Take what `import_clips` takes."""
    self._given = root, captions, window, report, fps

  def __iter__(self) -> Iterator[Clip]:
    return import_clips(*self._given)

  def __length_hint__(self) -> int:
    root, captions, window, _, fps = self._given
    return sum(expected(video, window) for video in vos_videos(Path(root), captions, fps))


def import_clips(
  root: PathLike,
  captions: Mapping[str, Description],
  window: Window,
  report: Report,
  fps: float | None = None,
) -> Iterator[Clip]:
  """Cuts the described sources into clips, one window in memory at a time.

  All clips of a source share its caption and motion prompt; see `drafts.to_clip` for its objects.

  Args:
    root: the folder under which the sources lie, laid out as `sources.vos` says.
    captions: the sources to read, from `read_captions`.
    window: what each clip is to be.
    report: receives counts and reasons. A source that cannot be used is reported, not raised.
    fps: of sources that are folders of pictures.

  Raises:
    InputError: `root` is no folder.
  """
  for video in vos_videos(Path(root), captions, fps):
    cut = Cut()
    report.sources[video.key] = ''  # In order, also where its clips are taken later.
    try:
      for draft in drafts(video, window, cut):
        try:
          clip, background = to_clip(draft)
        except Reject as reject:
          report.rejected[reject.reason] += 1
          continue
        report.backgrounded.update(background)
        report.clips += 1
        yield clip
    except InputError as error:
      report.sources[video.key] = f'not used: {error}'
      if cut.windows:
        report.sources[video.key] = f'{cut.windows} windows, then not used: {error}'
      continue
    report.sources[video.key] = f'{cut.how}, {cut.windows} windows'
    if not cut.windows:
      report.rejected[f'source shorter than {window.frames} frames at {window.fps:g} fps'] += 1
