"""Find the clips that all compared systems have, at one size, and say what deviates."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.metrics.references import Header, References, headers_of
from ttm_jax.metrics.score_files import ScoredFolder, is_scored, read_scored, videos_of
from ttm_jax.metrics.scored_videos import Inspection, inspect
from ttm_jax.metrics.systems import VideoFolder


@dataclasses.dataclass(frozen=True)
class About:
  """What was scored.

  Attributes:
    dataset, split: of the clips.
    shape: frames, height and width that were scored.
    fps: frames per second; None if they differ.
    notes: deviations that were allowed, and others that a reader must know.
  """

  dataset: str
  split: str
  shape: tuple[int, int, int]
  fps: float | None
  notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Agreed:
  """What can be compared.

  Attributes:
    references: the clips.
    shape: their frames, height and width.
    ours: the videos to score; None if they are yet to be generated.
    other: what they are compared with; None without comparison.
    notes: allowed deviations.
  """

  references: References
  shape: tuple[int, int, int]
  ours: VideoFolder | None
  other: VideoFolder | ScoredFolder | None
  notes: tuple[str, ...]

  def about(self, dataset: str, split: str) -> About:
    """Return what is scored, for the table."""
    rates = {header.fps for header in self.references.headers}
    fps = rates.pop() if len(rates) == 1 else None
    return About(dataset, split, self.shape, fps, self.notes)


def agree(
  clips: Clips,
  count: int | None,
  generated: str | None,
  against: str | None,
  allow: Collection[str],
  videos: bool = False,
) -> Agreed:
  """Find the clips of all systems.

  Args:
    clips: split of a dataset.
    count: number of clips; None for all.
    generated: folder of the videos to score; None if they are yet to be generated.
    against: folder to compare with, scored or of videos; None without comparison.
    allow: deviations that are allowed, see `scored_videos`.
    videos: whether the videos of scored folders are meant, not their scores.

  Raises:
    InputError: the clips differ in size, or a deviation is not allowed.
  """
  headers = headers_of(clips, count)
  if len({header.shape[1:] for header in headers}) > 1:
    raise InputError('the clips differ in size: score a dataset of one size at a time')
  inspections: dict[str, Inspection] = {}
  scored: ScoredFolder | None = None
  for name in (generated, against):
    if name is None or name in inspections:
      continue
    if name == against and name != generated and is_scored(Path(name)) and not videos:
      scored = read_scored(Path(name))
    else:
      inspections[name] = inspect(videos_of(Path(name)), headers, allow)
  keys = {header.key for header in headers}
  keys &= set(scored.measured.keys) if scored else keys
  notes: list[str] = []
  if scored and len(keys) < len(headers):
    said = f'{against} was scored on {len(keys)} of the {len(headers)} clips'
    if 'missing' not in allow or not keys:
      raise InputError(f'{said}: score it on all, or give --allow=missing to compare these')
    notes.append(f'{said}; the others are left out')
  for inspection in inspections.values():
    keys &= set(inspection.lengths)
    notes += inspection.notes
  kept = [header for header in headers if header.key in keys]
  if not kept:
    raise InputError(f'{generated} and {against} have no clip in common: compare videos of one set')
  frames = _frames(kept, list(inspections.values()))
  kept = [dataclasses.replace(h, shape=(frames, *h.shape[1:])) for h in kept]
  references = References(clips, kept, frames)

  def folder(name: str) -> VideoFolder:
    return VideoFolder(inspections[name], references, (name,))

  return Agreed(
    references,
    kept[0].shape,
    None if generated is None else folder(generated),
    scored if scored or against is None else folder(against),
    tuple(notes),
  )


def _frames(headers: Sequence[Header], inspections: Sequence[Inspection]) -> int:
  """Return the frames that all clips and videos have.

  Raises:
    InputError: the clips differ in length.
  """
  lengths = {header.shape[0] for header in headers}
  if len(lengths) > 1:
    raise InputError(
      f'the clips have {min(lengths)} to {max(lengths)} frames: score a dataset of one length at a'
      ' time'
    )
  return min([*lengths, *(found.lengths[h.key] for found in inspections for h in headers)])
