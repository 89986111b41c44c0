"""A small temporal autoencoder for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.codecs.tae import TAE, TAEConfig

SMALL = {'channels': 3, 'base_channels': 8, 'multipliers': (1, 2), 'res_blocks': 1}
SMALL |= {'temporal_downsamples': 1}
# Compiled programs run once on tiny inputs here.
jit = functools.partial(
  jax.jit,
  compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True},
)


def small(shaken='', **options):
  """Return a small temporal autoencoder.

  Args:
    shaken: which weights differ from their initial values: 'all', those in 'space', or none.
    options: fields of the configuration that do not change the weights.
  """
  names, leaves = initial()
  rng = np.random.default_rng(1)
  if shaken:
    leaves = [
      leaf + rng.normal(0, 0.1, leaf.shape).astype(np.float32)
      if shaken == 'all' or 'temporal' not in name
      else leaf
      for name, leaf in zip(names, leaves, strict=True)
    ]
  return jax.tree.unflatten(
    jax.tree.structure(abstract(TAEConfig(**(SMALL | options)))),
    [jnp.asarray(leaf) for leaf in leaves],
  )


def abstract(config):
  return nnx.eval_shape(lambda: TAE(config, rngs=nnx.Rngs(0)))


@functools.cache
def initial():
  make = jit(lambda: TAE(TAEConfig(**SMALL), rngs=nnx.Rngs(0)))
  named = jax.tree.leaves_with_path(jax.device_get(make()))
  return [jax.tree_util.keystr(path) for path, _ in named], [leaf for _, leaf in named]
