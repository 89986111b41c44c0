"""Object attention on eight devices against one; prints what it found as JSON.

Run by `test_sharded.py` in a process of its own, since a process has its devices from the start.
"""

import json
import os
import re

os.environ.setdefault('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=8'

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ttm_jax.ops.attention import attention
from ttm_jax.ops.object_attention import make_tables, object_attention
from ttm_jax.parallel.mesh import BATCH, make_mesh

MESHES = {
  'samples': {'data': 2, 'fsdp': 4},
  'heads': {'tensor': 4, 'data': 2},
  'tokens': {'sequence': 4, 'fsdp': 2},
  'all': {'data': 2, 'sequence': 2, 'tensor': 2},
}


def main() -> None:
  rng = np.random.default_rng(0)
  found = {}
  for samples, m in ((8, 48), (3, 48), (8, 20)):
    n, heads, d = 48, 4, 8
    q, k, v = (rng.normal(size=(samples, s, heads, d)).astype(np.float32) for s in (n, m, m))
    q_bits = np.sort(rng.choice([0, 1, 2, 4], (samples, n)), 1).astype(np.int32)
    k_bits = q_bits if m == n else rng.choice([0, 2, 6], (samples, m)).astype(np.int32)

    def loss(q, k, v, q_bits=q_bits, k_bits=k_bits, name='chunked'):
      tables = make_tables(q_bits, k_bits, head_dim=8, dtype=q.dtype, implementation=name)
      y = object_attention(q, k, v, q_bits, k_bits, tables=tables) + attention(q, k, v)
      return (y**2).sum(), y

    whole = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    wanted = jax.tree.leaves(whole(q, k, v))
    for name, sizes in MESHES.items():
      with jax.set_mesh(make_mesh(sizes)):
        got = jax.tree.leaves(jax.jit(whole)(q, k, v))
      worst = max(
        float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(got, wanted, strict=True)
      )
      found[f'{name}: {samples} samples, {m} keys'] = worst
  print(json.dumps({'errors': found, 'collectives': collectives()}))


def collectives() -> dict[str, int]:
  """How often the exchange between tokens and heads moves what, forward and backward."""
  mesh = make_mesh({'sequence': 4, 'fsdp': 2})
  tokens = NamedSharding(mesh, PartitionSpec(*BATCH, 'sequence', 'tensor', None))
  x = jax.ShapeDtypeStruct((8, 256, 4, 64), jnp.float32, sharding=tokens)
  bits = jax.ShapeDtypeStruct((8, 256), jnp.int32, sharding=NamedSharding(mesh, BATCH))

  def loss(q, k, v, bits):
    return object_attention(q, k, v, bits, bits, implementation='chunked').sum()

  with jax.set_mesh(mesh):
    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, bits).compile().as_text()
  names = ('all-to-all', 'all-gather', 'all-reduce', 'collective-permute')
  return {name: len(re.findall(rf' {name}(?:-start)?\(', program)) for name in names}


if __name__ == '__main__':
  main()
