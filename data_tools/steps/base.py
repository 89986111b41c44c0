"""Interface of the steps."""

from collections.abc import Sequence
from typing import Protocol

from data_tools.drafts import Draft, Rejected


class Step(Protocol):
  """A step of the preparation, which completes or rejects drafts.

  Each worker builds a step once, from picklable settings.
  """

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    """Return one outcome per draft, in order. A draft that fails gives Rejected, not an error."""
    ...
