"""Skip updates with a NaN or Inf loss or gradient, or with a loss spike.

A skipped step leaves parameters, EMA and optimizer state bitwise unchanged; the step number and the
data advance. The running statistics are part of the checkpointed state, so a resumed run decides
like an uninterrupted one.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array

MEMORY = 100  # Time constant of the running means in steps; no spikes before as many steps.
_LEAST = 0.01  # Lower bound of the deviation, as a share of the mean.
_OWN = ('mean', 'deviation', 'counted')  # Fields that each kind of batches has for itself.


class NotFinite(RuntimeError):
  """Too many steps in a row were skipped, or parameters are NaN or Inf."""


@flax.struct.dataclass
class SpikeGuard:
  """Running statistics of the loss.

  If there are several kinds of batches, the first three have an entry for each. Otherwise rare
  batches of a higher loss, such as images among videos, would all be spikes.

  Attributes:
    mean: float32 [], running mean of the loss; spikes are clipped to the threshold first.
    deviation: float32 [], running mean of the absolute deviation of the loss from `mean`.
    counted: int32 [], number of applied steps.
    skipped: int32 [], number of skipped steps.
    in_row: int32 [], number of skipped steps since the last applied one.
  """

  mean: Array
  deviation: Array
  counted: Array
  skipped: Array
  in_row: Array


def create(kinds: int = 1) -> SpikeGuard:
  """Return the statistics before the first step, for a number of kinds of batches."""
  shape = () if kinds == 1 else (kinds,)

  # Separate arrays, because one buffer cannot be donated twice.
  def number() -> Array:
    return jnp.zeros(shape, jnp.float32)

  def count(shape: tuple[int, ...] = ()) -> Array:
    return jnp.zeros(shape, jnp.int32)

  return SpikeGuard(number(), number(), count(shape), count(), count())


def judge(
  guard: SpikeGuard, loss: Array, norm: Array, spike: float, kind: int = 0
) -> tuple[Array, SpikeGuard]:
  """Decide whether to apply a step, and update the statistics; inside jit.

  Args:
    guard: statistics of the steps before.
    loss: float32 [].
    norm: float32 [], global norm of the gradients; finite only if all gradients are.
    spike: number of deviations above the mean beyond which a loss is a spike; 0 disables this.
    kind: the kind of the batch.

  Returns:
    Whether to apply the step, bool [], and the updated statistics.
  """
  if guard.mean.ndim:
    own = {name: getattr(guard, name)[kind] for name in _OWN}
    good, after = judge(dataclasses.replace(guard, **own), loss, norm, spike)
    every = {name: getattr(guard, name).at[kind].set(getattr(after, name)) for name in _OWN}
    return good, dataclasses.replace(after, **every)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  most = jnp.float32(jnp.inf)
  if spike:
    usual = jnp.maximum(guard.deviation, _LEAST * jnp.abs(guard.mean))
    most = jnp.where(guard.counted >= MEMORY, guard.mean + spike * usual, jnp.inf)
  good = finite & (loss <= most)
  # Spikes update the mean with the threshold. If they were ignored, a run with many hard samples
  # would train on easy ones only, its mean would fall, and it would skip more and more samples.
  seen = jnp.minimum(loss, most)
  rate = 1 / (1 + jnp.minimum(guard.counted, MEMORY - 1)).astype(jnp.float32)
  # At the first step there is no mean to deviate from.
  later = jnp.where(guard.counted > 0, jnp.abs(seen - guard.mean) - guard.deviation, 0.0)
  after = SpikeGuard(
    mean=jnp.where(finite, guard.mean + rate * (seen - guard.mean), guard.mean),
    deviation=jnp.where(finite, guard.deviation + rate * later, guard.deviation),
    counted=guard.counted + good,
    skipped=guard.skipped + ~good,
    in_row=jnp.where(good, 0, guard.in_row + 1),
  )
  return good, after
