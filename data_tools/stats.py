"""Statistics of the preparation: the outcome of each video and window, and preview images."""

import base64
import collections
import dataclasses
from typing import Any

import numpy as np

from data_tools.drafts import Draft
from ttm_jax import trajectory
from ttm_jax.data.schema import Clip
from ttm_jax.media import animations

STRIP_HEIGHT, STRIP_FRAMES = 72, 3
STRIPS = 4  # Preview strips kept per shard, for accepted and for rejected drafts each.
SHOWN = 48  # Preview strips kept per job, for accepted and for rejected drafts each.


@dataclasses.dataclass
class Tally:
  """Statistics of a shard or of a whole job.

  Attributes:
    videos: maps the key of each video to how it was read, or why it was not.
    windows: number of windows cut from the videos.
    clips: key, split, number of objects and scores of each accepted clip.
    rejected: key, reason and detail of each rejected window.
    unused: maps the key of each video that could not be read to its end to the reason.
    short: keys of the videos that are too short for a window.
    backgrounded: number of objects that became background, by reason.
    strips: preview images: key, text (`said`), reason ('' if accepted), and a WebP in base64.
  """

  videos: dict[str, str] = dataclasses.field(default_factory=dict)
  windows: int = 0
  clips: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  rejected: list[dict[str, str]] = dataclasses.field(default_factory=list)
  unused: dict[str, str] = dataclasses.field(default_factory=dict)
  short: list[str] = dataclasses.field(default_factory=list)
  backgrounded: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  strips: list[dict[str, str]] = dataclasses.field(default_factory=list)

  def accept(
    self, clip: Clip, split: str, scores: dict[str, float], background: collections.Counter[str]
  ) -> None:
    """Count an accepted clip, and keep a preview of it if there is room.

    Args:
      clip: the accepted clip.
      split: `train` or `validation`.
      scores: measured scores, by name.
      background: number of its objects that became background, by reason.
    """
    self.clips.append(
      {'key': clip.key, 'split': split, 'objects': len(clip.names), 'scores': dict(scores)}
    )
    self.backgrounded.update(background)
    if sum(not strip['reason'] for strip in self.strips) < STRIPS:
      said = '; '.join(clip.prompts)
      self.strips.append(_strip(clip.key, said, '', trajectory.overlay(clip.video, clip.ids)))

  def reject(self, draft: Draft, reason: str, detail: str) -> None:
    """Count a rejected draft, and keep a preview of it if there is room."""
    self.rejected.append({'key': draft.key, 'reason': reason, 'detail': detail})
    if sum(bool(strip['reason']) for strip in self.strips) < STRIPS:
      said = f'{reason} ({detail})' if detail else reason
      self.strips.append(_strip(draft.key, said, reason, draft.video))

  def add(self, other: 'Tally') -> None:
    """Add another tally to this one, keeping at most `SHOWN` preview strips of each kind."""
    self.videos.update(other.videos)
    self.windows += other.windows
    self.clips += other.clips
    self.rejected += other.rejected
    self.unused.update(other.unused)
    self.short += other.short
    self.backgrounded.update(other.backgrounded)
    for strip in other.strips:
      alike = [s for s in self.strips if bool(s['reason']) == bool(strip['reason'])]
      if len(alike) < SHOWN:
        self.strips.append(strip)

  def to_json(self) -> dict[str, Any]:
    """Return the tally as JSON values."""
    return {**vars(self), 'backgrounded': dict(self.backgrounded)}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> 'Tally':
    """Build a tally from the result of `to_json`."""
    return cls(**{**content, 'backgrounded': collections.Counter(content['backgrounded'])})


def _strip(key: str, said: str, reason: str, video: np.ndarray) -> dict[str, str]:
  """Return a preview strip: the first, middle and last frame side by side."""
  chosen = np.unique(np.linspace(0, len(video) - 1, STRIP_FRAMES).round().astype(int))
  height, width = video.shape[1:3]
  wide = max(1, round(STRIP_HEIGHT * width / height))
  small = animations.shrunk(video[chosen], max(STRIP_HEIGHT, wide))
  content = base64.b64encode(animations.webp(np.concatenate(list(small), 1)[None], 1, False))
  return {'key': key, 'said': said, 'reason': reason, 'picture': content.decode()}
