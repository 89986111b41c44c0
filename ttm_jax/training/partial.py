"""Split nested dicts of parameters into trained and frozen ones, and merge them again."""

from collections.abc import Container, Mapping
from typing import Any

import jax

Params = dict[str, Any]


def split(params: Mapping[str, Any], names: Container[str]) -> tuple[Params, Params]:
  """Return the parameters without those of these dotted paths, and those alone."""
  others: Params = {}
  chosen: Params = {}
  for path, leaf in jax.tree.leaves_with_path(params):
    *outer, last = [key.key for key in path]
    inner = chosen if dotted(path) in names else others
    for key in outer:
      inner = inner.setdefault(key, {})
    inner[last] = leaf
  return others, chosen


def merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> Params:
  """Return two nested dicts, which have no leaf in common, as one."""
  both: Params = {**a, **b}
  for name in a.keys() & b.keys():
    both[name] = merged(a[name], b[name])
  return both


def dotted(path: tuple[Any, ...]) -> str:
  """Return the path of a leaf as text, its keys joined by dots."""
  return jax.tree_util.keystr(path, simple=True, separator='.')


def by_name(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by their dotted paths, in the order of the leaves."""
  return {dotted(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
