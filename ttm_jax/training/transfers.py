"""Which parameters of a network come from which of its source, and each of them by itself.

A preset transfers all parameters together, by a function of arrays (`Preset.transfer`). Tracing
this function shows what each result depends on, so that one of them can be computed from a few
source parameters, without reading the others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from ttm_jax.training.partial import by_name


class Transfer:
  """A traced transfer.

  Attributes:
    names: the dotted paths of the results, in the order of the leaves.
  """

  def __init__(self, transfer: Callable[[Any, Any], Any], source: Any, target: Any):
    """Trace a transfer.

    Args:
      transfer: called as (source, target); returns a tree of the structure of target.
      source, target: nested dicts of arrays or of objects with `shape`.
    """
    shapes = [
      jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), tree)
      for tree in (source, target)
    ]
    self._traced, results = jax.make_jaxpr(transfer, return_shape=True)(*shapes)
    self._source = list(by_name(source))
    self.names = list(by_name(results))

  def needs(self, name: str) -> tuple[set[str], bool]:
    """Return what a result depends on: source parameters, and whether on initial values."""
    _, _, used = self._of(name)
    count = len(self._source)
    found = {source for source, is_used in zip(self._source, used, strict=False) if is_used}
    return found, any(used[count:])

  def value(self, name: str, source: Mapping[str, Any]) -> np.ndarray:
    """Return one result, float32.

    Args:
      name: its dotted path; it must not depend on initial values.
      source: the source parameters by dotted path. Only those that it depends on are read.
    """
    program, constants, used = self._of(name)
    known = [np.asarray(source[n]) for n, u in zip(self._source, used, strict=False) if u]
    return np.asarray(jax.core.eval_jaxpr(program, constants, *known)[0])

  def _of(self, name: str) -> tuple[Any, list[Any], list[bool]]:
    """Return the program of one result, its constants, and which inputs it has."""
    wanted = [name == other for other in self.names]
    program, kept, used = partial_eval.dce_jaxpr_consts(self._traced.jaxpr, wanted)
    constants = [x for x, keep in zip(self._traced.consts, kept, strict=True) if keep]
    return program, constants, list(used)
