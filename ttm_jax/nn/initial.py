"""Drawing the first values of a network's parameters, those of one kind all at once.

A network of hundreds of small layers draws as many times. Each draw is a loop of its own in the
compiled program, and compiling them takes longer than many steps of training. Parameters of one
shape and distribution are therefore drawn by one loop. The values are the same either way.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array
Initializer = Callable[..., Array]

# (initialiser, shape, dtype) -> the stand-ins for parameters not yet drawn, with their numbers.
Waiting = dict[tuple[Initializer, tuple[int, ...], Any], list[tuple[jax.ShapeDtypeStruct, int]]]

_waiting: ContextVar[Waiting | None] = ContextVar('waiting', default=None)


def initializer(draw: Initializer) -> Initializer:
  """An initialiser (key, shape, dtype) that can wait for others of its kind."""

  def init(key, shape, dtype=jnp.float32):
    waiting = _waiting.get()
    if waiting is None:
      return draw(key, shape, dtype)
    stand_in = jax.ShapeDtypeStruct(shape, dtype)
    waiting.setdefault((draw, tuple(shape), jnp.dtype(dtype)), []).append((stand_in, key))
    return stand_in

  return init


class _Numbers:
  """In place of `nnx.Rngs`: hands out the number of each key, of which all are made at once."""

  def __init__(self):
    self._next = 0

  def params(self) -> int:
    self._next += 1
    return self._next - 1


def draw_together(build: Callable[..., nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
  """build(rngs=...), in a program that is quickly compiled.

  Args:
    build: makes a network without transformations of its own (no `nnx.vmap`); all its random
      values come from `initializer`s, and none is looked at while it is built.
    rngs: the n-th parameter that is drawn has the key fold_in(rngs.params(), n).
  """
  with _collecting() as waiting:
    model = build(rngs=_Numbers())
  root = rngs.params()
  values: dict[int, Array] = {}
  for (draw, shape, dtype), group in waiting.items():
    stand_ins, numbers = zip(*group, strict=True)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(numbers, jnp.uint32))
    drawn = jax.vmap(lambda key, d=draw, s=shape, t=dtype: d(key, s, t))(keys)
    values |= {id(stand_in): drawn[i] for i, stand_in in enumerate(stand_ins)}
  graphdef, state = nnx.split(model)
  # A parameter and its copies hold the same stand-in.
  state = jax.tree.map(lambda x: values.get(id(x), x), state)
  return nnx.merge(graphdef, state)


@contextlib.contextmanager
def _collecting() -> Iterator[Waiting]:
  waiting: Waiting = {}
  token = _waiting.set(waiting)
  try:
    yield waiting
  finally:
    _waiting.reset(token)
