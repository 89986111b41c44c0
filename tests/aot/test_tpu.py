"""Compile object attention with the real compiler for TPU chips and a pod, without a TPU.

This finds what a simulation cannot: unsupported operations, memory overflows, unintended copies
and collectives. Run by `make test-aot`; -s shows the figures.
"""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from ttm_jax.ops.object_attention import api, object_attention, tpu
from ttm_jax.parallel.mesh import BATCH, make_mesh

pytest.importorskip('libtpu', reason='the TPU compiler is not here: use `make test-aot`')
pytestmark = pytest.mark.aot

CHIPS = {'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2'}
# Samples, tokens, heads, head dim: DiT at 256 pixels, Wan, the U-Net's first resolution. There
# are so many samples that no array fits in vector memory, which does not count as temporary.
SIZES = [(8, 4096, 20, 128), (6, 8448, 12, 128), (2, 65536, 8, 40)]
WHOLE = PartitionSpec()


def mesh_of(topology, sizes, devices=None):
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  return make_mesh(sizes, found[:devices])


def compiled(mesh, q, k, tokens=WHOLE, samples=WHOLE):
  """Compile both passes for q and k (v has the shape of k); return them and a report."""

  def passes(q, k, v, q_bits, k_bits, dy):
    y, pull = jax.vjp(lambda q, k, v: object_attention(q, k, v, q_bits, k_bits), q, k, v)
    return y, *pull(dy)

  def array(like, spec):
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=NamedSharding(mesh, spec))

  q, k = array(q, tokens), array(k, tokens)
  bits = [array(jax.ShapeDtypeStruct(x.shape[:2], jnp.int32), samples) for x in (q, k)]
  start = time.perf_counter()
  with jax.set_mesh(mesh):
    program = jax.jit(passes).lower(q, k, k, *bits, q).compile()
  shape = q.sharding.shard_shape(q.shape)
  size = np.prod(shape[:-1]) * -(-shape[-1] // 128) * 128 * q.dtype.itemsize
  temporary = program.memory_analysis().temp_size_in_bytes
  kind = mesh.devices.flat[0].device_kind
  print(
    f'\n{kind} x {mesh.size}: q {q.dtype.name}{list(q.shape)}, {k.shape[1]} keys:'
    f' {temporary / 1e6:.0f} MB temporary, {temporary / size:.2f} of q;'
    f' {time.perf_counter() - start:.0f} s'
  )
  return program, temporary / size


def arrays(samples, n, heads, width, dtype=jnp.bfloat16, m=None):
  return tuple(jax.ShapeDtypeStruct((samples, s, heads, width), dtype) for s in (n, m or n))


@pytest.mark.parametrize('chip', CHIPS)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_self_attention(chip, size):
  program, share = compiled(mesh_of(CHIPS[chip], {}, 1), *arrays(*size))
  assert share < 8
  samples, n, heads, width = size
  # Two matrix products forward, five backward; no block is known to be empty.
  flops = program.cost_analysis()['flops']
  assert flops == pytest.approx(14 * samples * heads * n * n * width, rel=0.15)
  assert program.as_text().count('custom_call_target="tpu_custom_call"') == 2


@pytest.mark.parametrize(
  'width, dtype, m',
  [
    (64, 'bfloat16', None),
    (80, 'bfloat16', 640),
    (96, 'bfloat16', None),
    (160, 'bfloat16', None),
    (128, 'float32', 640),
    (160, 'float32', None),
  ],
)
def test_head_dims_and_prompts(width, dtype, m):
  q, k = arrays(4, 8192, 8, width, dtype, m)
  _, share = compiled(mesh_of('v5e:2x2', {}, 1), q, k)
  assert share < 8


def test_a_list_that_fills_scalar_memory():
  samples = 28  # 7/8 MiB of scalar memory.
  assert tpu.refuses(api.Case(65536, 65536, 128, jnp.dtype('bfloat16'), 'tpu', samples)) is None
  program, share = compiled(mesh_of('v5e:2x2', {}, 1), *arrays(samples, 65536, 1, 128))
  assert share < 8
  assert program.as_text().count('custom_call_target="tpu_custom_call"') >= 2


@pytest.mark.parametrize('chip', CHIPS)
def test_two_walks_where_a_head_does_not_fit(chip, monkeypatch):
  small = tpu.make_kernel(memory=(16 << 20, 1 << 20))
  monkeypatch.setitem(
    api.IMPLEMENTATIONS, 'tpu', api.Implementation(api._blocked(small), tpu.block, tpu.refuses)
  )
  program, share = compiled(mesh_of(CHIPS[chip], {}, 1), *arrays(4, 16384, 8, 128))
  assert share < 8
  assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3


def test_pod():
  mesh = mesh_of('v5e:16x16', {'data': 16, 'fsdp': 4, 'sequence': 4})
  tokens = PartitionSpec(*BATCH, 'sequence', 'tensor', None)

  program, share = compiled(mesh, *arrays(256, 32768, 12, 128), tokens, BATCH)
  assert share < 8
  text = program.as_text()
  names = ('all-to-all', 'all-gather', 'collective-permute')
  found = {name: len(re.findall(rf' {name}(?:-start)?\(', text)) for name in names}
  assert found['all-to-all'] > 0 and found['all-gather'] == 0, found
