"""The one interface of all steps."""

from collections.abc import Sequence
from typing import Protocol

from data_tools.drafts import Draft, Rejected


class Step(Protocol):
  """Fills in something of drafts, or gives them up. Built once a worker, of picklable settings."""

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    """One outcome a draft, in their order. A bad draft is an outcome, never an exception."""
    ...
