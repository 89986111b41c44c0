"""Initialize the parameters of a network with one random draw per shape and distribution.

A network of hundreds of small layers makes as many random draws. Each draw is a separate loop in
the compiled program, and compiling these loops takes longer than many training steps. One loop
therefore draws all parameters of equal shape and distribution. The values do not depend on this.
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

# (initializer, shape, dtype) -> the placeholders of parameters not drawn yet, with their key
# indices.
Waiting = dict[tuple[Initializer, tuple[int, ...], Any], list[tuple[jax.ShapeDtypeStruct, int]]]

_waiting: ContextVar[Waiting | None] = ContextVar('waiting', default=None)


def initializer(draw: Initializer) -> Initializer:
  """Return an initializer (key, shape, dtype) whose draw `draw_together` can postpone.

  Inside `draw_together` it returns a `jax.ShapeDtypeStruct` placeholder. Elsewhere it calls `draw`
  at once.
  """

  def init(key, shape, dtype=jnp.float32):
    waiting = _waiting.get()
    if waiting is None:
      return draw(key, shape, dtype)
    stand_in = jax.ShapeDtypeStruct(shape, dtype)
    waiting.setdefault((draw, tuple(shape), jnp.dtype(dtype)), []).append((stand_in, key))
    return stand_in

  return init


class _Numbers:
  """Replaces `nnx.Rngs`: returns the index of each key. `draw_together` makes all keys at once."""

  def __init__(self):
    self._next = 0

  def params(self) -> int:
    self._next += 1
    return self._next - 1


def draw_together(build: Callable[..., nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
  """Return build(rngs=...) with its random parameters drawn in few, fast-compiling loops.

  Args:
    build: makes the network. It must not use transformations such as `nnx.vmap`. All its random
      values must come from `initializer`s, and it must not read them.
    rngs: the n-th drawn parameter uses the key fold_in(rngs.params(), n).
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
  # A parameter and its copies hold the same placeholder.
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
