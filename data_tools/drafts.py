"""Drafts: candidate clips that the steps of the preparation complete or reject.

A source cuts a video into drafts. Each step adds a caption, prompts, boxes, label maps or scores,
or rejects the draft with a reason. The drafts that remain become clips.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ttm_jax import trajectory
from ttm_jax.data.schema import MAX_OBJECTS, Clip
from ttm_jax.pytorch.annotation.rejection import Reject
from ttm_jax.pytorch.annotation.texts import check_caption


@dataclasses.dataclass(frozen=True)
class Draft:
  """A candidate clip. Arrays are never modified in place.

  Attributes:
    key: unique name of the clip in the dataset.
    video: uint8 [T, H, W, 3], RGB.
    fps: frames per second.
    caption, motion: caption c and motion prompt c_motion; empty until known.
    names, prompts: noun phrase and object prompt c_local, by object id; empty until known.
    ids: label map uint8 [T, H, W], 0 is background; None until known. Ids need not be
      consecutive.
    boxes: float [4] (x0, y0, x1, y1) in pixels of frame 0, by object id; empty until detected.
    scores: scores that steps measured, by name.
  """

  key: str
  video: np.ndarray
  fps: float
  caption: str = ''
  motion: str = ''
  names: dict[int, str] = dataclasses.field(default_factory=dict)
  prompts: dict[int, str] = dataclasses.field(default_factory=dict)
  ids: np.ndarray | None = None
  boxes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
  scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rejected:
  """A rejected draft with its reason; see `Reject`."""

  draft: Draft
  reason: str
  detail: str = ''


def attempt(function: Callable[..., Draft], draft: Draft, *arguments: object) -> Draft | Rejected:
  """Return `function(*arguments)`, or `draft` as Rejected if the function raises Reject."""
  try:
    return function(*arguments)
  except Reject as reject:
    return Rejected(draft, reject.reason, reject.detail)


def remaining(outcomes: Sequence[Draft | Rejected]) -> list[Draft]:
  """Return the drafts that were not rejected."""
  return [outcome for outcome in outcomes if isinstance(outcome, Draft)]


def to_clip(draft: Draft) -> tuple[Clip, collections.Counter[str]]:
  """Return the finished clip, and the number of objects that became background, by reason.

  Keep the objects that are visible in frame 0 and have a prompt. Renumber them from 1 in the order
  of their ids. All others, including objects that appear later, become background.

  Raises:
    Reject: if masks, caption or motion prompt are missing, the caption is too long, no object is
      left, or there are more than MAX_OBJECTS.
  """
  if draft.ids is None:
    raise Reject('no masks', 'give a source with masks, or the steps detect and segment')
  check_caption(draft.caption)
  if not draft.motion:
    raise Reject('no motion prompt')
  visible = [int(i) for i in np.unique(draft.ids[0]) if i]
  kept = [i for i in visible if draft.prompts.get(i)]
  late = set(np.unique(draft.ids).tolist()) - {0, *visible}
  if not kept:
    raise Reject('no described object is visible in the first frame')
  if len(kept) > MAX_OBJECTS:
    raise Reject('too many objects', f'{len(kept)}, the palette has {MAX_OBJECTS}')
  background = {
    'no prompt for their id': len(visible) - len(kept),
    "not visible in their clip's first frame": len(late),
  }
  clip = Clip(
    key=draft.key,
    video=draft.video,
    ids=trajectory.relabel(draft.ids, {old: new for new, old in enumerate(kept, 1)}),
    fps=draft.fps,
    caption=draft.caption,
    motion=draft.motion,
    names=tuple(draft.names.get(i, '') for i in kept),
    prompts=tuple(draft.prompts[i] for i in kept),
  )
  return clip, collections.Counter({why: n for why, n in background.items() if n})
