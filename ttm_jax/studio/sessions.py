"""Sessions: each has its own project, proposals and renders, under a random token."""

import dataclasses
import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.jobs import Job, Queue
from ttm_jax.studio.motion import Base
from ttm_jax.studio.project import Project, Scene

MOST_SESSIONS = 256
MOST_PROPOSALS = 12
MOST_RENDER_BYTES = 512 * 2**20
IDLE_SECONDS = 12 * 3600.0


class SessionLost(Exception):
  """Raised if there is no session of a token."""


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
  """A trajectory that stage 1 generated.

  Attributes:
    id: Its number.
    seed: Seed of the noise.
    motion: The motion prompt.
    ids: Label map, uint8 [T, H, W].
    base: The same, as the base of edits.
    mask: The objects of the picture that it was generated for, label map uint8 [H, W].
  """

  id: int
  seed: int
  motion: str
  ids: np.ndarray
  base: Base
  mask: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Render:
  """A video that stage 2 generated.

  Attributes:
    id: Its number.
    settings: Seed, steps, guidance scales, quality, texts and duration, as the page shows them.
    scene: The scene that it was generated from.
    ids: Trajectory, uint8 [T, H, W].
    video: uint8 [T, H, W, 3].
  """

  id: int
  settings: dict[str, Any]
  scene: Scene
  ids: np.ndarray
  video: np.ndarray


class Session:
  """What one page works on.

  Attributes:
    token: Random text that names the session.
    lock: Held while the session is read or changed.
    project: The project.
    proposals: Proposals, the newest last.
    renders: Renders, the newest last.
    jobs: Jobs that the page has not seen the end of.
  """

  def __init__(self, token: str, limits: Limits):
    self.token = token
    self.lock = threading.RLock()
    self.project = Project(limits)
    self.proposals: list[Proposal] = []
    self.renders: list[Render] = []
    self.jobs: list[Job] = []
    self.used = time.monotonic()
    self._number = 0

  def next_number(self) -> int:
    """Return a number that nothing else of this session has."""
    self._number += 1
    return self._number

  def keep_proposal(self, proposal: Proposal) -> None:
    """Add a proposal; the oldest ones beyond `MOST_PROPOSALS` go."""
    self.proposals = [*self.proposals, proposal][-MOST_PROPOSALS:]

  def keep_render(self, render: Render) -> None:
    """Add a render; the oldest ones beyond `MOST_RENDER_BYTES` go."""
    self.renders.append(render)
    while len(self.renders) > 1 and (
      sum(r.video.nbytes + r.ids.nbytes for r in self.renders) > MOST_RENDER_BYTES
    ):
      self.renders.pop(0)

  def proposal(self, number: int) -> Proposal:
    """Return a proposal by its number.

    Raises:
      InputError: If it is not kept.
    """
    return _by_number(self.proposals, number, 'proposal')

  def render(self, number: int) -> Render:
    """Return a render by its number.

    Raises:
      InputError: If it is not kept.
    """
    return _by_number(self.renders, number, 'render')


def _by_number(items: list[Any], number: int, what: str) -> Any:
  for item in items:
    if item.id == number:
      return item
  raise InputError(f'there is no {what} {number}, or it has made room for newer ones')


class Sessions:
  """All sessions of a server; idle ones end."""

  def __init__(self, limits: Limits, queue: Queue):
    self._limits, self._queue = limits, queue
    self._by_token: OrderedDict[str, Session] = OrderedDict()
    self._lock = threading.Lock()

  def create(self) -> Session:
    """Start a session; if there are too many, the one that was idle longest ends."""
    session = Session(secrets.token_urlsafe(24), self._limits)
    with self._lock:
      now = time.monotonic()
      for token, old in list(self._by_token.items()):
        if len(self._by_token) < MOST_SESSIONS and now - old.used < IDLE_SECONDS:
          break
        self._queue.cancel_all(token)
        del self._by_token[token]
      self._by_token[session.token] = session
    return session

  def get(self, token: str) -> Session:
    """Return the session of a token.

    Raises:
      SessionLost: If there is none.
    """
    with self._lock:
      if token not in self._by_token:
        raise SessionLost
      self._by_token.move_to_end(token)
      session = self._by_token[token]
      session.used = time.monotonic()
      return session
