"""A task that trains three numbers to the mean of random data, so that a run takes seconds."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.helpers import tiny
from ttm_jax.training.state import create
from ttm_jax.training.step import make_step

# Checkpoint every second step, at a constant learning rate.
EVERY = {'train__checkpoint_every': 2, 'optimizer__schedule': 'constant'}


class Numbers(nnx.Module):
  """A network of three numbers."""

  def __init__(self):
    self.w = nnx.Param(jnp.zeros(3))


class Mean:
  """An objective: the mean of the data, whose numbers differ between steps.

  Attributes:
    sampled: the network's numbers at each call of `samples`.
    finished: those given to `finish`.
  """

  sharding = ()
  parts = ()
  frozen: ClassVar[dict] = {}
  gather = False
  has_validation = True
  flops_per_sample = 1.0
  fps = 8.0
  kinds = 1

  def __init__(self, noise: float = 0.0, poisoned: tuple[int, ...] = ()):
    """Args:
    noise: how much the random key changes the loss.
    poisoned: the batches that are NaN.
    """
    self.noise, self.poisoned = noise, poisoned
    self.sampled: list[np.ndarray] = []
    self.finished: list[np.ndarray] = []

  def build(self, seed):
    return Numbers()

  def batches(self, split, start):
    for step in itertools.count(start):
      x = rows(step) + (100 if split == 'validation' else 0)
      yield {'x': np.where(step in self.poisoned, np.nan, x).astype(np.float32)}

  def kind(self, arrays):
    return 0

  def validation(self, count):
    return [(1.0, list(itertools.islice(self.batches('validation', 0), count)))]

  def check_run(self, run):
    pass

  def loss(self, model, arrays, key):
    losses = jnp.mean((model.w[...] - arrays['x']) ** 2, axis=1)
    sway = self.noise * jnp.sum(model.w[...] * jax.random.normal(key, (3,)))
    return losses.mean() + sway, {'loss': (losses.sum(), jnp.asarray(float(len(losses))))}

  def samples(self, model, arrays, key):
    self.sampled.append(np.asarray(model.w[...]))
    return {'w': np.zeros((1, 2, 8, 8, 3), np.uint8)}

  def begin(self, directory):
    pass

  def finish(self, directory, average):
    self.finished.append(np.asarray(average().w[...]))


def rows(step):
  """Return the data of a batch: float [4, 3]."""
  return np.random.default_rng(step).normal([1, 2, 3], size=(4, 3))


def settings(**changes):
  return tiny.shrunk('demo_stage1', optimizer__learning_rate=0.1, **changes)


def stepped(objective, accumulate, optimizer, steps=1, ema=0.9):
  """Return the state after some steps, and the metrics of the last."""
  graphdef, params = nnx.split(objective.build(0))
  step = jax.jit(make_step(objective, graphdef, optimizer, accumulate, ema))
  state = create(nnx.to_pure_dict(params), optimizer)
  for _, arrays in zip(range(steps), objective.batches('train', 0), strict=False):
    state, metrics = step(state, arrays, jax.random.key(0))
  return state, metrics
