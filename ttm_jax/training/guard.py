"""Which steps count: those whose loss and gradients are numbers, and whose loss is no spike.

A step that does not count leaves parameters, average and optimiser as they are, bit by bit; only
the number of the step goes on, and with it the data. What the guard remembers is part of the state,
so that a resumed run judges as an undisturbed one.
"""

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array

MEMORY = 100  # Steps over which the running mean forgets; before as many there are no spikes.
_LEAST = 0.01  # A deviation counts as at least this share of the mean.


class NotFinite(RuntimeError):
  """Too many steps in a row did not count, or parameters are no longer numbers."""


@flax.struct.dataclass
class Guard:
  """What is remembered of the steps so far.

  Attributes:
    mean: float32 [], running mean of the loss.
    deviation: float32 [], running mean of its distance from that.
    counted: int32 [], steps that counted.
    skipped: int32 [], steps that did not.
    in_row: int32 [], those since the last one that counted.
  """

  mean: Array
  deviation: Array
  counted: Array
  skipped: Array
  in_row: Array


def create() -> Guard:
  """Before the first step."""
  # Each an array of its own, since they are donated.
  number, count = (lambda: jnp.zeros((), jnp.float32)), (lambda: jnp.zeros((), jnp.int32))
  return Guard(number(), number(), count(), count(), count())


def judge(guard: Guard, loss: Array, norm: Array, spike: float) -> tuple[Array, Guard]:
  """Whether a step counts, and what is remembered after it; inside jit.

  Args:
    loss: float32 [].
    norm: float32 [], of all gradients together: finite only if all of them are.
    spike: deviations above the mean from which on a loss is a spike; 0 for no such thing.
  """
  good = jnp.isfinite(loss) & jnp.isfinite(norm)
  distance = jnp.abs(loss - guard.mean)
  if spike:
    usual = jnp.maximum(guard.deviation, _LEAST * jnp.abs(guard.mean))
    good &= (guard.counted < MEMORY) | (loss <= guard.mean + spike * usual)
  rate = 1 / (1 + jnp.minimum(guard.counted, MEMORY - 1)).astype(jnp.float32)
  # The first distance is that from nothing.
  later = jnp.where(guard.counted > 0, distance - guard.deviation, 0.0)
  after = Guard(
    mean=guard.mean + rate * (loss - guard.mean),
    deviation=guard.deviation + rate * later,
    counted=guard.counted + 1,
    skipped=guard.skipped,
    in_row=jnp.zeros((), jnp.int32),
  )
  left = guard.replace(skipped=guard.skipped + 1, in_row=guard.in_row + 1)  # type: ignore[attr-defined]
  return good, jax.tree.map(lambda a, b: jnp.where(good, a, b), after, left)
