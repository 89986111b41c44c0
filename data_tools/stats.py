"""What became of every video and every window: counts that add up, and pictures to look at."""

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
STRIPS = 4  # Kept of each shard, of accepted and of rejected drafts.
SHOWN = 48  # Kept of a whole job, of each.


@dataclasses.dataclass
class Tally:
  """Of a shard, or of a whole job.

  Attributes:
    videos: how each was read, or why not, by key.
    windows: drafts that the sources gave.
    clips: of each accepted clip: key, split, objects, and its scores.
    rejected: of each given-up window: key, reason, detail.
    unused: videos that could not be read to their end, by reason.
    short: videos that gave no window.
    backgrounded: objects that became background, by reason.
    strips: pictures: key, said, reason ('' if accepted), and a JPEG in base64.
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
    self.clips.append(
      {'key': clip.key, 'split': split, 'objects': len(clip.names), 'scores': dict(scores)}
    )
    self.backgrounded.update(background)
    if sum(not strip['reason'] for strip in self.strips) < STRIPS:
      said = '; '.join(clip.prompts)
      self.strips.append(_strip(clip.key, said, '', trajectory.overlay(clip.video, clip.ids)))

  def reject(self, draft: Draft, reason: str, detail: str) -> None:
    self.rejected.append({'key': draft.key, 'reason': reason, 'detail': detail})
    if sum(bool(strip['reason']) for strip in self.strips) < STRIPS:
      said = f'{reason} ({detail})' if detail else reason
      self.strips.append(_strip(draft.key, said, reason, draft.video))

  def add(self, other: 'Tally') -> None:
    """Takes in another one; of the pictures, as many as a report shows."""
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
    return {**vars(self), 'backgrounded': dict(self.backgrounded)}

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> 'Tally':
    return cls(**{**content, 'backgrounded': collections.Counter(content['backgrounded'])})


def _strip(key: str, said: str, reason: str, video: np.ndarray) -> dict[str, str]:
  """First, middle and last frame side by side."""
  chosen = np.unique(np.linspace(0, len(video) - 1, STRIP_FRAMES).round().astype(int))
  height, width = video.shape[1:3]
  wide = max(1, round(STRIP_HEIGHT * width / height))
  small = animations.shrunk(video[chosen], max(STRIP_HEIGHT, wide))
  content = base64.b64encode(animations.webp(np.concatenate(list(small), 1)[None], 1, False))
  return {'key': key, 'said': said, 'reason': reason, 'picture': content.decode()}
