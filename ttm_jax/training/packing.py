"""The small parameters of a network as one array.

Norms, biases and gates are most of a network's arrays and next to none of its numbers: of the U-Net
684 of 1,207 arrays, 0.06 % of the numbers. Whatever the optimiser does to each of them alone is an
instruction that starts, and one that is compiled. So the train step joins them end to end.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# The name of the joined array; no network has a parameter of this name at its top.
SMALL = 'small'


def pack(tree: Any) -> dict[str, Array]:
  """Joins the arrays of one axis or none.

  Args:
    tree: parameters, or what has their shapes; of one dtype.

  Returns:
    The other arrays by their dotted paths, and under `SMALL` the joined ones, [n].
  """
  named = _named(tree)
  packed = {name: x for name, x in named.items() if x.ndim > 1}
  small = [x.reshape(-1) for x in named.values() if x.ndim <= 1]
  return packed | ({SMALL: jnp.concatenate(small)} if small else {})


def unpack(packed: Mapping[str, Array], like: Any) -> Any:
  """Takes apart again what `pack` joined.

  Args:
    like: a tree of those shapes and paths.
  """
  found, begin = [], 0
  for name, x in _named(like).items():
    if x.ndim > 1:
      found.append(packed[name])
    else:
      found.append(packed[SMALL][begin : begin + x.size].reshape(x.shape))
      begin += x.size
  return jax.tree.unflatten(jax.tree.structure(like), found)


def _named(tree: Any) -> dict[str, Array]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='.'): x for path, x in leaves}
