"""Savings while sampling that need no training: fewer evaluations of the network.

Guidance takes three evaluations a step: one with all conditions and two with some (`conditioning`).

- `guidance_interval`: no guidance outside of a range of noise levels, where a step then takes one
  evaluation. Guidance hardly helps near the data, and harms near pure noise (Kynkäänniemi et al.
  2024, arXiv 2404.07724).
- `guidance_every`: the difference that guidance makes changes slowly. It is computed every so many
  steps and kept in between, where a step takes one evaluation (as in FasterCache, Lv et al. 2024,
  arXiv 2410.19355, without its weights of frequencies).
- `reuse`: a step takes no evaluation if the predicted data are expected to have changed little
  since the last one; they are then kept. The expected change is the distance that the noisy
  latents have moved since, times the rate at which the predicted data changed with them between the
  last two evaluations. The criterion is that of EasyCache (Zhou et al. 2025, arXiv 2507.02860),
  applied to the predicted data instead of the output of the network, since these change less, and
  whatever a network predicts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Savings:
  """What is saved; by default nothing.

  Attributes:
    guidance_interval: lowest and highest noise level with guidance, in 0 (data) to 1 (noise).
    guidance_every: steps from one computation of the guidance difference to the next, at least 1.
    reuse: largest expected change of the predicted data, relative to their norm, for which they are
      kept; 0 evaluates the network at every step.

  Raises:
    ValueError: if a value is out of range.
  """

  guidance_interval: tuple[float, float] = (0.0, 1.0)
  guidance_every: int = 1
  reuse: float = 0.0

  def __post_init__(self):
    interval = tuple(self.guidance_interval)
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
      raise ValueError(f'guidance_interval must be two noise levels in 0 to 1, got {interval}')
    if self.guidance_every < 1:
      raise ValueError(f'guidance_every must be at least 1, got {self.guidance_every}')
    if not 0 <= self.reuse < 1:
      raise ValueError(f'reuse must be 0 to below 1, got {self.reuse}')

  def plan(self, times: np.ndarray) -> 'Plan':
    """Return what each step evaluates.

    Args:
      times: times of the process, float [steps]; the noise level is 1 - t.
    """
    low, high = self.guidance_interval
    guided = (low <= 1 - times) & (1 - times <= high)
    count = np.cumsum(guided) - 1  # Guided steps before each.
    last = np.arange(len(times)) == len(times) - 1
    early = np.arange(len(times)) < 2
    return Plan(guided, guided & (count % self.guidance_every == 0), last | early)


@flax.struct.dataclass
class Plan:
  """What the steps evaluate: bool [steps], or of one step [].

  Attributes:
    guided: whether guidance is used.
    differs: whether its difference is computed.
    evaluated: whether the network is evaluated in any case; otherwise, if `reuse` says so.
  """

  guided: Any
  differs: Any
  evaluated: Any


@flax.struct.dataclass
class Memory:
  """What is kept from step to step; None if no saving needs it.

  Attributes:
    passes: evaluations of the network so far, int32 [].
    difference: the last difference of guidance, [B, ...].
    data: the last predicted data, [B, ...].
    x_t: the noisy latents of that prediction, [B, ...].
    rate: change of the predicted data relative to that of the noisy latents, float32 [B].
  """

  passes: Array
  difference: Array | None = None
  data: Array | None = None
  x_t: Array | None = None
  rate: Array | None = None


def empty(savings: Savings, noise: Array) -> Memory:
  """Return the memory before the first step, for noise [B, ...]."""
  zeros = jnp.zeros_like(noise)
  kept: dict[str, Array] = {}
  if savings.guidance_every > 1:
    kept['difference'] = zeros
  if savings.reuse:
    kept |= {'data': zeros, 'x_t': zeros, 'rate': jnp.zeros(len(noise))}
  return Memory(jnp.int32(0), **kept)


def guide(
  both: Callable[[], tuple[Array, Array]],
  one: Callable[[], Array],
  memory: Memory,
  plan: Plan,
) -> tuple[Array, Array, Memory]:
  """Evaluate a network with guidance, or with what is kept of it; inside jit.

  Args:
    both: returns the prediction with all conditions and the difference that guidance makes,
      [B, ...] each; three evaluations.
    one: returns the prediction with all conditions; one evaluation.
    memory: what is kept.
    plan: what the step evaluates.

  Returns:
    The prediction with all conditions, the difference to add to it, and what is kept.
  """

  def three() -> tuple[Array, Array, Array]:
    return *both(), jnp.int32(3)

  def single() -> tuple[Array, Array, Array]:
    full = one()
    kept = jnp.zeros_like(full) if memory.difference is None else memory.difference
    return full, kept, jnp.int32(1)

  full, difference, passes = jax.lax.cond(plan.differs, three, single)
  memory = memory.replace(passes=memory.passes + passes)  # type: ignore[attr-defined]
  if memory.difference is not None:
    memory = memory.replace(difference=difference)  # type: ignore[attr-defined]
  return full, jnp.where(plan.guided, difference, 0), memory


def reuse(
  evaluate: Callable[[Memory], tuple[Array, Memory]],
  x_t: Array,
  memory: Memory,
  plan: Plan,
  threshold: float,
) -> tuple[Array, Memory]:
  """Return the predicted data, evaluated or kept; inside jit.

  A batch is evaluated if one of its samples needs it.

  Args:
    evaluate: (memory) -> predicted data [B, ...] at x_t, memory.
    x_t: noisy latents [B, ...].
    memory: what is kept.
    plan: what the step evaluates.
    threshold: see `Savings.reuse`.
  """
  assert memory.data is not None and memory.x_t is not None and memory.rate is not None
  moved = _norm(x_t - memory.x_t)
  # NaN compares false, so that it is evaluated.
  keeps = jnp.all(memory.rate * moved < threshold * _norm(memory.data))

  def evaluated(memory: Memory) -> tuple[Array, Memory]:
    data, after = evaluate(memory)
    assert memory.data is not None
    rate = _norm(data - memory.data) / moved
    return data, after.replace(data=data, x_t=x_t, rate=rate)  # type: ignore[attr-defined]

  def kept(memory: Memory) -> tuple[Array, Memory]:
    assert memory.data is not None
    return memory.data, memory

  return jax.lax.cond(plan.evaluated | ~keeps, evaluated, kept, memory)


def _norm(x: Array) -> Array:
  """Return the Euclidean norm of each sample, float32 [B]."""
  return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(1, x.ndim))))
