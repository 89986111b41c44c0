"""Process one shard: cut its videos into windows, run the steps, and write one part.

The windows of all videos of the shard pass through the steps in batches. Errors in a video or a
window are counted in the tally and do not stop the job.
"""

import dataclasses
import functools
import threading
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from data_tools import parts
from data_tools.drafts import Draft, Rejected, to_clip
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from data_tools.sources.windows import Cut, bucket, drafts
from data_tools.stats import Tally
from ttm_jax.data.encode import batched
from ttm_jax.errors import InputError
from ttm_jax.outputs import writing
from ttm_jax.pytorch.annotation.rejection import Reject


class Step(Protocol):
  """A step of the preparation, which completes or rejects drafts."""

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    """Return one outcome per draft, in order. A draft that fails gives Rejected, not an error."""
    ...


class Settings(Hashable, Protocol):
  """Settings of a step: frozen, hashable and picklable, so that they can be sent to workers."""

  def build(self) -> Step:
    """Load the models of the step and return it."""
    ...


@dataclasses.dataclass(frozen=True)
class Work:
  """Settings that all shards share.

  Attributes:
    root: work folder, in which the parts are written.
    windows: length, rate and size of the clips, one entry per bucket.
    measures: steps that score every window.
    finders: steps that complete windows whose source lacks masks or texts; see `is_described`.
    batch: number of windows passed to a step at once.
  """

  root: str
  windows: tuple[Window, ...]
  measures: tuple[Settings, ...] = ()
  finders: tuple[Settings, ...] = ()
  batch: int = 8


@dataclasses.dataclass(frozen=True)
class Shard:
  """A group of videos that one worker processes.

  Attributes:
    number: index of the shard and of its part.
    videos: pairs of a video and its split.
    digest: hash of the options, model files and source files that determine the part.
  """

  number: int
  videos: tuple[tuple[Video, str], ...]
  digest: str = ''


def bucket_name(window: Window) -> str:
  """Return the name of a bucket, as `16x256x256` (frames, height, width)."""
  return f'{window.frames}x{window.size[0]}x{window.size[1]}'


_LOCK = threading.Lock()


@functools.lru_cache
def _built(settings: Settings) -> Step:
  return settings.build()


def step_of(settings: Settings) -> Step:
  """Return the step for `settings`, built once per process (thread-safe)."""
  with _LOCK:
    return _built(settings)


def run(shard: Shard, work: Work) -> None:
  """Write the part of a shard, unless it is already finished.

  Raises:
    InputError: if the part cannot be written, or a step cannot be built.
  """
  folder = parts.part_folder(Path(work.root), shard.number)
  if parts.is_finished(folder):
    return
  for settings in (*work.measures, *work.finders):
    step_of(settings)  # Build first: a model that fails to load must stop the job.
  tally = Tally()
  with (
    writing(folder, 'free space, then run the same command again'),
    parts.new_part(folder, shard.digest, tally) as writer,
  ):
    for some in batched(_drafts(work, shard, tally), work.batch):
      _finish(work, some, writer, tally)


@dataclasses.dataclass(frozen=True)
class _Placed:
  """A draft with the bucket and split of its clip."""

  draft: Draft
  bucket: str
  split: str


def _drafts(work: Work, shard: Shard, tally: Tally) -> Iterator[_Placed]:
  for video, split in shard.videos:
    cut = Cut()
    try:
      window = bucket(video, list(work.windows))
      for draft in drafts(video, window, cut):
        tally.windows += 1
        yield _Placed(draft, bucket_name(window), split)
    except Exception as error:  # Video decoders raise many exception types.
      why = str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
      tally.unused[video.key] = why
      tally.videos[video.key] = cut.failed(why)
      continue
    tally.videos[video.key] = cut.summary
    if not cut.windows:
      tally.short.append(video.key)


def _finish(work: Work, some: Sequence[_Placed], writer: parts.PartWriter, tally: Tally) -> None:
  """Run a batch through the steps, and write the remaining clips in order."""
  places = {placed.draft.key: placed for placed in some}
  outcomes: list[Draft | Rejected] = [placed.draft for placed in some]
  for settings in work.measures:
    outcomes = _through(settings, outcomes)
  for settings in work.finders:
    outcomes = _through(settings, outcomes, lambda draft: not is_described(places[draft.key].draft))
  for outcome in outcomes:
    if isinstance(outcome, Draft):
      try:
        clip, background = to_clip(outcome)
      except Reject as reject:
        tally.reject(outcome, reject.reason, reject.detail)
        continue
      placed = places[outcome.key]
      writer.write(placed.bucket, placed.split, clip)
      tally.accept(clip, placed.split, outcome.scores, background)
    else:
      tally.reject(outcome.draft, outcome.reason, outcome.detail)


def is_described(draft: Draft) -> bool:
  """Return whether a draft already has masks, object prompts, a caption and a motion prompt."""
  return bool(draft.ids is not None and draft.prompts and draft.caption and draft.motion)


def _through(
  settings: Settings, outcomes: Sequence[Draft | Rejected], wanted=lambda draft: True
) -> list[Draft | Rejected]:
  """Run a step on the remaining, wanted drafts; return all outcomes in order."""
  step = step_of(settings)
  taken = [o for o in outcomes if isinstance(o, Draft) and wanted(o)]
  done = iter(safely(step, taken, type(settings).__name__.removesuffix('Settings').lower()))
  return [next(done) if isinstance(o, Draft) and wanted(o) else o for o in outcomes]


def safely(step: Step, drafts: Sequence[Draft], name: str) -> list[Draft | Rejected]:
  """Run a step; if it fails on a batch, retry each draft, so that only the failing ones go."""
  if not drafts:
    return []
  try:
    return step(drafts)
  except Exception as error:
    if len(drafts) == 1:
      detail = f'{type(error).__name__}: {error}'.partition('\n')[0][:200]
      return [Rejected(drafts[0], f'the step {name} failed', detail)]
  return [outcome for draft in drafts for outcome in safely(step, [draft], name)]
