"""Measure how long saving a checkpoint delays training.

    python -m benchmarks.checkpoint --parameters 100 --dir /tmp/checkpoints

Trains a network of `--parameters` million parameters with AdamW and EMA (train state: four float32
values per parameter), and saves checkpoints. Prints:

- the step time
- the time for which a save blocks training (checksums, and the copy for the writer threads)
- the slowdown of the steps while the files are written in the background
- the total overhead at one save per 500 steps

`--tokens` sets the step length. Short steps are the worst case.
"""

import argparse
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.configs.base import common
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.orbax_errors import hush
from ttm_jax.training.state import create
from ttm_jax.training.step import make_step

LAYERS = 12


class Network(nnx.Module):
  """A residual MLP with layers of equal width."""

  def __init__(self, width: int):
    rngs = nnx.Rngs(0)
    self.layers = nnx.List(nnx.Linear(width, width, rngs=rngs) for _ in range(LAYERS))

  def __call__(self, x):
    for layer in self.layers:
      x = x + jax.nn.gelu(layer(x))
    return x


class Objective:
  """A reconstruction objective: the network predicts its input."""

  def __init__(self, width: int):
    self.width = width

  def build(self, seed):
    return Network(self.width)

  def loss(self, model, arrays, key):
    error = jnp.mean((model(arrays['x']) - arrays['x']) ** 2, axis=1)
    return error.mean(), {'loss': (error.sum(), jnp.asarray(float(len(error))))}


def main() -> None:
  """Time the saving of checkpoints beside training steps."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--parameters', type=float, default=100.0, help='millions of parameters')
  parser.add_argument('--tokens', type=int, default=64, help='batch size in rows')
  parser.add_argument('--steps', type=int, default=12, help='timed steps before each save')
  parser.add_argument('--saves', type=int, default=3, help='checkpoints that are saved')
  parser.add_argument(
    '--dir', type=Path, required=True, help='folder for checkpoints; removed at the end'
  )
  given = parser.parse_args()
  hush()
  objective = Objective(int((given.parameters * 1e6 / LAYERS) ** 0.5))
  optimizer = make_optimizer(common().optimizer, 1000)
  graphdef, params = nnx.split(objective.build(0))
  step = jax.jit(make_step(objective, graphdef, optimizer, 1, 0.999), donate_argnums=0)
  state = create(nnx.to_pure_dict(params), optimizer)
  del params
  count = sum(x.size for x in jax.tree.leaves(state.params))
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  print(f'{count / 1e6:.0f} M parameters, a checkpoint of {size / 1e9:.2f} GB')
  x = np.random.default_rng(0).normal(size=(given.tokens, objective.width)).astype(np.float32)
  key = jax.random.key(0)
  checkpoints = Checkpoints(given.dir, keep_last=1)

  def one(state):
    begin = time.perf_counter()
    state, _ = step(state, {'x': x}, key)
    jax.block_until_ready(state)
    return state, time.perf_counter() - begin

  for _ in range(3):
    state, _ = one(state)
  calm, blocked, slower = [], [], []
  for save in range(given.saves + 1):
    for _ in range(given.steps):
      state, seconds = one(state)
      calm.append(seconds)
    usual = float(np.median(calm))
    begin = time.perf_counter()
    checkpoints.save(state)
    held = time.perf_counter() - begin
    during = []
    while checkpoints.saving:
      state, seconds = one(state)
      during.append(seconds)
    checkpoints.wait()
    if save:  # Skip the first save, which also compiles and creates folders.
      blocked.append(held)
      slower.append(sum(during) - len(during) * usual)
      print(
        f'save {save}: blocked {held:.2f} s, then {len(during)} steps of {np.mean(during):.3f} s'
        f' while writing, against {usual:.3f} s'
      )
  checkpoints.close()
  shutil.rmtree(given.dir)
  usual = float(np.median(calm))
  share, whole = (x / (500 * usual) for x in (np.mean(blocked), np.mean(blocked) + np.mean(slower)))
  print(
    f'a step takes {usual:.3f} s; a save blocks for {np.mean(blocked):.2f} s and slows the steps'
    f' beside it by {np.mean(slower):.2f} s in all'
  )
  print(
    f'at one save in 500 steps: blocked {share:.2%} of the time, with the slower steps {whole:.2%}'
  )


if __name__ == '__main__':
  main()
