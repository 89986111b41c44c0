"""Solvers, one step at a time.

The sampler of a process is a `Solver`: a state that starts as noise, and an update that takes the
network's prediction. All that differs between the steps is in a table of numbers. So one compiled
step serves all steps, whatever their number, and whoever calls it may look at the state between two
steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Solver:
  """How a process is integrated from noise to data.

  Attributes:
    times: float [steps], the time of the process at which each step evaluates the network.
    numbers: the other numbers of the steps: a pytree of arrays [steps, ...].
    begin: noise [B, ...] -> state, arrays of this shape. The first one is x_t at the time of the
      next evaluation, and after the last step the data.
    update: (state, prediction [B, ...], numbers of the step) -> state.
  """

  times: np.ndarray
  numbers: Any
  begin: Callable[[Array], State]
  update: Callable[[State, Array, Any], State]

  @property
  def steps(self) -> int:
    """Number of steps."""
    return len(self.times)

  @property
  def rows(self) -> Any:
    """Times and numbers of all steps, float32: a pytree of arrays [steps, ...]."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32), (self.times, self.numbers))


def integrate(solver: Solver, predict: Callable[[Array, Array], Array], noise: Array) -> Array:
  """Return data from noise, in one program.

  Args:
    solver: the solver.
    predict: maps (x_t [B, ...], t float32 [B]) to the network's prediction [B, ...].
    noise: standard normal, float32 [B, ...].

  Returns:
    Data latents, float32 [B, ...].
  """

  def step(state: State, row: Any) -> tuple[State, None]:
    t, numbers = row
    x_t = state[0]
    return solver.update(state, predict(x_t, jnp.full(x_t.shape[:1], t)), numbers), None

  return jax.lax.scan(step, solver.begin(noise), solver.rows)[0][0]
