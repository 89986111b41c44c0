"""A clip in the making, and why it may not become one.

A source cuts drafts; each step of the preparation fills in what it finds (caption, prompts, boxes,
label maps, scores) or gives the draft up with a reason; what is left at the end are clips.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ttm_jax.data.schema import MAX_OBJECTS, Clip

MAX_CAPTION_WORDS = 400  # What the text encoders keep is less; a whole page is no caption.


class Reject(Exception):
  """A draft cannot become a clip.

  Attributes:
    reason: a few words that many drafts can share; the report counts by it.
    detail: what is special about this one.
  """

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason} ({detail})' if detail else reason)
    self.reason, self.detail = reason, detail


@dataclasses.dataclass(frozen=True)
class Draft:
  """What is known of a clip so far; no array is changed in place.

  Attributes:
    key: names the clip within the dataset.
    video: uint8 [T, H, W, 3].
    fps: frames per second.
    caption, motion: c and c_motion; empty until known.
    names, prompts: noun phrase and c_local, by object id; empty until known.
    ids: uint8 [T, H, W], or None until known. Ids need not be consecutive: 255 at most.
    boxes: float [4] x0, y0, x1, y1 in pixels of frame 0, by object id; empty until detected.
    scores: numbers that steps measured, by name.
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
  """A draft that was given up, and by what reason."""

  draft: Draft
  reason: str
  detail: str = ''


def attempt(function: Callable[..., Draft], draft: Draft, *arguments: object) -> Draft | Rejected:
  """What `function` makes of its arguments, or the draft with the reason it was given up for."""
  try:
    return function(*arguments)
  except Reject as reject:
    return Rejected(draft, reject.reason, reject.detail)


def remaining(outcomes: Sequence[Draft | Rejected]) -> list[Draft]:
  """Those that were not rejected."""
  return [outcome for outcome in outcomes if isinstance(outcome, Draft)]


def check_caption(draft: Draft) -> None:
  """Raises Reject where there is no caption, or what is no caption."""
  if not draft.caption.strip():
    raise Reject('no caption')
  if (words := len(draft.caption.split())) > MAX_CAPTION_WORDS:
    raise Reject(f'caption of more than {MAX_CAPTION_WORDS} words', f'{words} words')


def to_clip(draft: Draft) -> tuple[Clip, collections.Counter[str]]:
  """The finished clip, and how many objects became background, by reason.

  Objects are those visible in frame 0 that have a prompt, in the order of their ids, numbered from
  1; all others are background, objects do not appear later.

  Raises:
    Reject: no object is left, there are too many, or a sentence is missing or endless.
  """
  if draft.ids is None:
    raise Reject('no masks', 'give a source with masks, or the steps detect and segment')
  check_caption(draft)
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
  renumbered = np.zeros(256, np.uint8)
  renumbered[kept] = np.arange(1, len(kept) + 1)
  clip = Clip(
    key=draft.key,
    video=draft.video,
    ids=renumbered[draft.ids],
    fps=draft.fps,
    caption=draft.caption,
    motion=draft.motion,
    names=tuple(draft.names.get(i, '') for i in kept),
    prompts=tuple(draft.prompts[i] for i in kept),
  )
  return clip, collections.Counter({why: n for why, n in background.items() if n})
