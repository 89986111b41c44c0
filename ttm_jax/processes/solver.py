"""Solvers, one step at a time.

The sampler of a process is a `Solver`: a state that starts as noise, and an update that takes the
network's prediction. All that differs between the steps is in a table of numbers. So one compiled
step serves all steps, whatever their number, and whoever calls it may look at the state between two
steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
State = tuple[Array, ...]


@flax.struct.dataclass
class Row:
  """What differs between the steps; arrays [steps, ...] of all of them, or of one step.

  Attributes:
    t: time of the process at which the network is evaluated.
    signal, spread: share of the data and of the noise in x_t.
    numbers: other numbers of the solver, a pytree.
  """

  t: Any
  signal: Any
  spread: Any
  numbers: Any = ()


@dataclasses.dataclass(frozen=True)
class Solver:
  """How a process is integrated from noise to data.

  Attributes:
    rows: the table of numbers, float [steps, ...] on the host.
    begin: noise [B, ...] -> state, arrays of this shape. The first one is x_t at the time of the
      next evaluation, and after the last step the data.
    update: (state, prediction [B, ...], row of the step) -> state.
  """

  rows: Row
  begin: Callable[[Array], State]
  update: Callable[[State, Array, Row], State]

  @property
  def steps(self) -> int:
    """The number of steps."""
    return len(self.rows.t)

  @property
  def table(self) -> Row:
    """The rows as float32."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32), self.rows)


def integrate(solver: Solver, predict: Callable[[Array, Array], Array], noise: Array) -> Array:
  """Return data from noise, in one program.

  Args:
    solver: the solver.
    predict: maps (x_t [B, ...], t float32 [B]) to the network's prediction [B, ...].
    noise: standard normal, float32 [B, ...].

  Returns:
    Data latents, float32 [B, ...].
  """

  def step(state: State, row: Row) -> tuple[State, None]:
    x_t = state[0]
    return solver.update(state, predict(x_t, jnp.full(x_t.shape[:1], row.t)), row), None

  return jax.lax.scan(step, solver.begin(noise), solver.table)[0][0]
