"""Convert videos that already have masks and descriptions to clips, without running any step."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_tools.drafts import to_clip
from data_tools.report import shown
from data_tools.sources import leftovers
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Description, Window
from data_tools.sources.leftovers import Leftover
from data_tools.sources.vos import vos_videos
from data_tools.sources.windows import Cut, clip_key, drafts, expected, frame_numbers
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.rejection import Reject


@dataclasses.dataclass
class Report:
  """Statistics of an import, filled in while the clips are generated.

  Attributes:
    clips: number of clips.
    sources: maps the key of each video, in order, to how it was read, or why it could not be.
    rejected: number of rejected windows, by reason.
    backgrounded: number of objects that became background in their window, by reason.
    unread: files of the source that no video uses.
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


@dataclasses.dataclass(frozen=True)
class Part:
  """Some windows of each video: its last ones, or those that share no frame with them.

  A video without a window for each part is for training as a whole.

  Attributes:
    held_out: number of windows at the end of each video that are for validation, at least 1.
    validation: whether these are the part.
  """

  held_out: int
  validation: bool

  def keys(self, video: Video, window: Window) -> set[str]:
    """Return the keys of the windows of this part.

    Raises:
      InputError: as in `windows.drafts`.
    """
    numbers = list(frame_numbers(video, window))
    held = numbers[-self.held_out :]
    train = [n for n in numbers[: -self.held_out] if n[-1] < held[0][0]]
    if not train:
      held, train = [], numbers
    return {clip_key(video, n) for n in (held if self.validation else train)}


@dataclasses.dataclass(frozen=True)
class Imported:
  """Clips of the described videos, one window in memory at a time.

  All clips of a video share its caption and motion prompt. See `drafts.to_clip` for the objects.
  Iteration raises InputError if `root` is not a folder.

  Attributes:
    root: folder of the videos, in a layout of `sources.vos`.
    captions: descriptions of the videos to read, from `read_captions`.
    window: length, stride, frame rate and size of the clips.
    report: receives the statistics. A video that cannot be used is reported, not raised.
    fps: frames per second of videos that are folders of images.
    part: which windows of each video to read.
  """

  root: Path
  captions: Mapping[str, Description]
  window: Window
  report: Report
  fps: float | None = None
  part: Part | None = None

  def __length_hint__(self) -> int:
    if self.part is not None:
      return 0  # Known when the videos are read.
    return sum(expected(video, self.window) for video in self._videos())

  def __iter__(self) -> Iterator[Clip]:
    report = self.report
    for video in self._videos():
      cut = Cut()
      report.sources[video.key] = ''  # Insert now to keep the order of the videos.
      try:
        chosen = None if self.part is None else self.part.keys(video, self.window)
        for draft in drafts(video, self.window, cut):
          if chosen is not None and draft.key not in chosen:
            continue
          try:
            clip, background = to_clip(draft)
          except Reject as reject:
            report.rejected[reject.reason] += 1
            continue
          report.backgrounded.update(background)
          report.clips += 1
          yield clip
      except InputError as error:
        report.sources[video.key] = cut.failed(str(error))
        continue
      report.sources[video.key] = cut.summary
      if not cut.windows and not (self.part and self.part.validation):
        reason = f'source shorter than {self.window.frames} frames at {self.window.fps:g} fps'
        report.rejected[reason] += 1

  def _videos(self) -> list[Video]:
    return vos_videos(self.root, self.captions, self.fps)
