"""Which parameters of a network come from which of its source, and each of them by itself.

A preset transfers all parameters together, by a function of arrays (`Preset.transfer`). Tracing
this function shows what each result depends on, so that one of them can be computed from a few
source parameters, without reading the others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ttm_jax.training.partial import by_name, dotted


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
    self._transfer = transfer
    self._shapes = [
      jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), tree)
      for tree in (source, target)
    ]
    closed, results = jax.make_jaxpr(transfer, return_shape=True)(*self._shapes)
    self._program, self._source = closed.jaxpr, list(by_name(source))
    self.names = list(by_name(results))

  def needs(self, name: str) -> tuple[set[str], bool]:
    """Return what a result depends on: source parameters, and whether on initial values."""
    used = self._used(name)
    count = len(self._source)
    found = {source for source, use in zip(self._source, used[:count], strict=True) if use}
    return found, any(used[count:])

  def value(self, name: str, source: Mapping[str, Any]) -> np.ndarray:
    """Return one result, float32.

    Args:
      name: its dotted path; it must not depend on initial values.
      source: the source parameters by dotted path. Only those that it depends on are read.
    """
    known = {other: np.asarray(source[other]) for other in self.needs(name)[0]}
    result = self._program.outvars[self.names.index(name)]
    if result in self._program.invars:  # One source parameter as it is.
      return known.popitem()[1]

    @jax.jit
    def computed(known: dict[str, jax.Array]) -> jax.Array:
      # The zeros have no influence, so that the compiler removes them.
      own, target = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree) for tree in self._shapes
      )
      given = jax.tree.map_with_path(lambda path, x: known.get(dotted(path), x), own)
      return by_name(self._transfer(given, target))[name]

    return np.asarray(computed(known))

  def _used(self, name: str) -> list[bool]:
    """Return whether a result depends on each input of the program."""
    needed = {self._program.outvars[self.names.index(name)]}
    for equation in reversed(self._program.eqns):
      if not needed.isdisjoint(equation.outvars):
        needed |= {atom for atom in equation.invars if not isinstance(atom, Literal)}
    return [variable in needed for variable in self._program.invars]
