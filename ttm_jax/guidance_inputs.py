"""Guidance scales as inputs of a network (Meng et al. 2023, arXiv 2210.03142, section 3.1).

A student that takes them predicts in one pass what its teacher gives with guidance at these scales,
within the ranges that they were drawn from in training.
"""

from collections.abc import Mapping
from typing import Any

# The scales in the order in which networks take them, and the key of the range of each.
RANGES = {'visual_scale': 'visual_range', 'text_scale': 'text_range'}

Range = tuple[float, float]


def ranges(section: Mapping[str, Any] | None) -> dict[str, Range]:
  """Return the lowest and the highest value of each scale that a student takes as an input.

  Args:
    section: the section `distill` of a configuration; None or empty for a network that is no
      student.

  Returns:
    The ranges by the names of `RANGES`. A scale without a range has the one value it is fixed at.
    Empty if no scale has a range, so that the network takes none.
  """
  given = {scale: tuple((section or {}).get(key, ())) for scale, key in RANGES.items()}
  if section is None or not any(given.values()):
    return {}
  return {scale: one or (section[scale],) * 2 for scale, one in given.items()}


def out_of_range(allowed: Mapping[str, Range], scales: Mapping[str, Any]) -> str:
  """Return which scale is out of its range, such as 'text_scale 12 is not in 1 to 10', or ''.

  Args:
    allowed: see `ranges`.
    scales: values by the names of `RANGES`; None, or no entry, is not checked.
  """
  for scale, (low, high) in allowed.items():
    value = scales.get(scale)
    if value is not None and not low <= value <= high:
      return f'{scale} {value:g} is not in {low:g} to {high:g}'
  return ''
