"""Sessions: each has its own project, proposals and renders, under a random token."""

import dataclasses
import itertools
import secrets
import threading
import time
from collections import OrderedDict
from typing import Any, Protocol

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
    proposal_numbers: Numbers of the next proposals.
    render_numbers: Numbers of the next renders.
  """

  proposals: list[Proposal]
  renders: list[Render]
  jobs: list[Job]

  def __init__(self, token: str, limits: Limits):
    self.token = token
    self.lock = threading.RLock()
    self.project = Project(limits)
    self.used = time.monotonic()
    self.clear()

  def clear(self) -> None:
    """Drop what belongs to the picture: proposals, renders and jobs; numbers begin at 1 again."""
    self.proposals, self.renders, self.jobs = [], [], []
    self.proposal_numbers, self.render_numbers = itertools.count(1), itertools.count(1)

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


class Keeper(Protocol):
  """What has the projects of sessions that are not in memory (see `kept_sessions`)."""

  def read(self, token: str) -> Project | None:
    """Return the project of a session, if it is known."""

  def keep(self, session: Session) -> None:
    """Write the project of a session if it has changed."""

  def forget(self, token: str) -> None:
    """Free what is remembered of a session."""


class Sessions:
  """All sessions of a server; idle ones end."""

  def __init__(self, limits: Limits, queue: Queue, keeper: Keeper | None = None):
    """Begin without sessions.

    Args:
      limits: What the networks can generate.
      queue: Jobs, which end with their session.
      keeper: Where sessions are found that are not in memory; None for nowhere.
    """
    self._limits, self._queue, self._keeper = limits, queue, keeper
    self._by_token: OrderedDict[str, Session] = OrderedDict()
    self._lock = threading.Lock()

  def all(self) -> list[Session]:
    """Return the sessions in memory."""
    with self._lock:
      return list(self._by_token.values())

  def create(self) -> Session:
    """Start a session; if there are too many, the one that was idle longest ends."""
    session = Session(secrets.token_urlsafe(24), self._limits)
    self._add(session)
    return session

  def get(self, token: str) -> Session:
    """Return the session of a token; one that was kept is restored.

    Raises:
      SessionLost: If there is none.
    """
    session = self._known(token)
    if session is None and token and self._keeper is not None:
      project = self._keeper.read(token)
      if project is not None:
        restored = Session(token, self._limits)
        restored.project = project
        self._add(restored)
        session = self._known(token)
    if session is None:
      raise SessionLost
    return session

  def _known(self, token: str) -> Session | None:
    with self._lock:
      session = self._by_token.get(token)
      if session is not None:
        self._by_token.move_to_end(token)
        session.used = time.monotonic()
      return session

  def _add(self, session: Session) -> None:
    """Add a session, unless another request has done so."""
    ended = []
    with self._lock:
      now = time.monotonic()
      for token, old in list(self._by_token.items()):
        if len(self._by_token) < MOST_SESSIONS and now - old.used < IDLE_SECONDS:
          break
        self._queue.cancel_all(token)
        ended.append(self._by_token.pop(token))
      self._by_token.setdefault(session.token, session)
    if self._keeper is not None:
      for old in ended:
        self._keeper.keep(old)
        self._keeper.forget(old.token)
