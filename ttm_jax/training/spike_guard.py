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
class SpikeGuard:
  """What is remembered of the steps so far.

  Attributes:
    mean: float32 [], running mean of the loss; of a spike, of the most that would have counted.
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


def create() -> SpikeGuard:
  """Before the first step."""
  # Each an array of its own, since they are donated.
  number, count = (lambda: jnp.zeros((), jnp.float32)), (lambda: jnp.zeros((), jnp.int32))
  return SpikeGuard(number(), number(), count(), count(), count())


def judge(guard: SpikeGuard, loss: Array, norm: Array, spike: float) -> tuple[Array, SpikeGuard]:
  """Whether a step counts, and what is remembered after it; inside jit.

  Args:
    loss: float32 [].
    norm: float32 [], of all gradients together: finite only if all of them are.
    spike: deviations above the mean from which on a loss is a spike; 0 for no such thing.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  most = jnp.float32(jnp.inf)
  if spike:
    usual = jnp.maximum(guard.deviation, _LEAST * jnp.abs(guard.mean))
    most = jnp.where(guard.counted >= MEMORY, guard.mean + spike * usual, jnp.inf)
  good = finite & (loss <= most)
  # A spike is remembered as the most that would have counted. Were it forgotten, a run with many
  # hard samples would learn from the easy ones alone, and find ever more of the others too hard.
  seen = jnp.minimum(loss, most)
  rate = 1 / (1 + jnp.minimum(guard.counted, MEMORY - 1)).astype(jnp.float32)
  # The first distance is that from nothing.
  later = jnp.where(guard.counted > 0, jnp.abs(seen - guard.mean) - guard.deviation, 0.0)
  after = SpikeGuard(
    mean=jnp.where(finite, guard.mean + rate * (seen - guard.mean), guard.mean),
    deviation=jnp.where(finite, guard.deviation + rate * later, guard.deviation),
    counted=guard.counted + good,
    skipped=guard.skipped + ~good,
    in_row=jnp.where(good, 0, guard.in_row + 1),
  )
  return good, after
