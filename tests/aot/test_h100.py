"""Compile object attention with the real compilers (XLA, Mosaic, ptxas) for H100s, without a GPU.

This finds what an interpreter cannot: layouts that the hardware cannot multiply, register spills,
shared memory overflows, unintended copies and collectives. Run by `make test-aot-gpu`; -s shows
the figures.
"""

import importlib.util
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from ttm_jax.nn.feed_forward import SwiGLU
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.ops.object_attention import gpu, make_block_mask, object_attention
from ttm_jax.ops.object_attention.blocks import list_blocks
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import BATCH, make_mesh

pytestmark = pytest.mark.aot

HEADS = {40: 8, 64: 8, 128: 12}
WHOLE = PartitionSpec()


@pytest.fixture(scope='module', autouse=True)
def compilers():
  """Set the paths of the compilers. The plugin reads them when the first topology loads it."""
  if not importlib.util.find_spec('jax_cuda12_plugin'):
    pytest.skip('the GPU compiler is not here: use `make test-aot-gpu`')
  found = importlib.util.find_spec('nvidia').submodule_search_locations
  nvcc = next(path for path in (Path(x) / 'cuda_nvcc' for x in found) if path.exists())
  disassembler = next(path.parents[1] for x in found for path in Path(x).glob('*/bin/nvdisasm'))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('PATH', str(nvcc / 'bin'), prepend=os.pathsep)
    patch.setenv('XLA_FLAGS', f'--xla_gpu_cuda_data_dir={nvcc} --xla_gpu_autotune_level=0')
    patch.setenv('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')  # There is no driver to query.
    patch.setenv('MOSAIC_GPU_DUMP_PTXAS', '1')
    patch.setenv('MOSAIC_GPU_DUMP_SASS', '1')
    patch.setenv('MOSAIC_GPU_CUDA_ROOT', str(disassembler))
    # A cached program would report nothing.
    jax.config.update('jax_enable_compilation_cache', False)
    yield
    jax.config.update('jax_enable_compilation_cache', True)


class FeedForward(nnx.Module):
  """Feed-forward block of three matrix products."""

  def __init__(self, sizes, rngs):
    self.ffn = SwiGLU(sizes.width, sizes.ffn, rngs=rngs, dtype=jnp.bfloat16)

  def __call__(self, h, context):
    return h + self.ffn(h)


def mesh_of(sizes, devices=1):
  target = (Path(__file__).parent / 'h100.txtpb').read_text()
  shape = f'1x{devices}x1'
  found = topologies.get_topology_desc(platform='cuda', topology=shape, target_config=target)
  return make_mesh(sizes, found.devices)


def compiled(mesh, shape, dtype=jnp.bfloat16, tokens=WHOLE, samples=WHOLE):
  """Compile both passes of self-attention; return them and the temporary memory in units of q.

  The size of q is that with its last axis padded to 128.
  """

  def passes(q, k, v, bits, dy):
    block_mask = make_block_mask(bits, bits, head_dim=q.shape[-1], dtype=q.dtype)
    assert block_mask.implementation == 'gpu'

    def attend(q, k, v):
      return object_attention(q, k, v, bits, bits, block_mask=block_mask)

    y, pull = jax.vjp(attend, q, k, v)
    return y, *pull(dy)

  q = jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, tokens))
  bits = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=NamedSharding(mesh, samples))
  with jax.set_mesh(mesh):
    traced = jax.jit(passes).trace(q, q, q, bits, q)
    program = traced.lower(lowering_platforms=('cuda',)).compile()
  size = np.prod(shape[:-1]) // mesh.size * -(-shape[-1] // 128) * 128 * q.dtype.itemsize
  temporary = program.memory_analysis().temp_size_in_bytes
  return program, temporary / size


@pytest.fixture
def shared(monkeypatch):
  """Return the shared memory that each kernel requests while it is traced."""
  asked, count = [], gpu._shared_memory
  monkeypatch.setattr(gpu, '_shared_memory', lambda refs: asked.append(count(refs)) or asked[-1])
  return asked


# Instructions of the GPU to count in the block loop, by kind.
KINDS = {
  'products': 'HGMMA',
  'exponentials': r'MUFU\.EX2',
  'float': 'F(?:MUL|ADD|FMA|MNMX|SEL)',
  'conversions': 'F2FP',
  'shared memory': '(?:LDS|STS|LDSM|STSM)',
  'local memory': '(?:LDL|STL)',
  'bulk copies': 'UTMA(?:STG|REDG)',
  'barriers': '(?:SYNCS|BAR)',
}


def instructions(text):
  """Parse the disassembly into (label before it, instruction, label that it branches to) tuples."""
  found, label = [], None
  for line in text.splitlines():
    if name := re.match(r'(\.L_\w+):', line):
      label = name.group(1)
    elif code := re.match(r'\s+/\*[0-9a-f]+\*/ +(?:@!?U?P\w+ +)?([A-Z].*?) *;', line):
      target = re.search(r'BRA .*\((\.L_\w+)\)', code.group(1))
      found.append((label, code.group(1), target and target.group(1)))
      label = None
  return found


def main_loop(code):
  """Return the shortest loop that has the most matrix products."""
  labels = {label: i for i, (label, _, _) in enumerate(code)}
  loops = [code[labels[to] : i + 1] for i, (_, _, to) in enumerate(code) if to and labels[to] <= i]
  return max(loops, key=lambda loop: (sum('HGMMA' in x for _, x, _ in loop), -len(loop)))


def report(capfd, shared, title):
  """Print the reports of ptxas and its disassembler for each kernel; return them by pass."""
  text = capfd.readouterr()
  text = text.out + text.err
  found = {}
  for name, function in re.findall(
    r"Compiling entry function '(\w+)_mosaic_gpu_kernel' for 'sm_90a'(.*?)Compile time", text, re.S
  ):
    lines = re.search(rf'^\.text\.{name}_mosaic_gpu_kernel:\n(.*?)(^ptxas|\Z)', text, re.S | re.M)
    code = instructions(lines.group(1))
    side = 'forward' if name.endswith('forward') else 'backward'
    found[side] = {
      'spilled': sum(map(int, re.findall(r'(\d+) bytes spill', function))),
      'registers': int(re.search(r'Used (\d+) registers', function).group(1)),
      'bytes shared': shared[side == 'backward'],
      'instructions': len(code),
      'in the loop': len(main_loop(code)),
    }
    for kind, pattern in KINDS.items():
      count = sum(bool(re.match(rf'{pattern}\b', each)) for _, each, _ in main_loop(code))
      found[side][kind] = count
  with capfd.disabled():
    for side, figures in found.items():
      print(f'\n{title} {side}: {", ".join(f"{v} {k}" for k, v in figures.items())}', end='')
  # Products that wait for each other because registers or their order do not allow overlap.
  found['serialized'] = 'instructions are serialized' in text
  return found


@pytest.mark.parametrize('n', [4096, 8448, 32760])
@pytest.mark.parametrize('width', HEADS)
def test_self_attention(n, width, capfd, shared):
  program, share = compiled(mesh_of({}), (1, n, HEADS[width], width))
  found = report(capfd, shared, f'N={n} D={width}, {share:.1f} of q temporary,')
  assert set(found) == {'forward', 'backward', 'serialized'}
  assert_efficient(found)
  assert share < 5
  if width % 32 == 0:  # Without padding, nothing is copied either.
    assert not re.search(r'= bf16\S* (transpose|pad|copy)\(', program.as_text())


@pytest.mark.parametrize(
  'width, dtype', [(64, 'float16'), (80, 'bfloat16'), (96, 'bfloat16'), (160, 'bfloat16')]
)
def test_other_head_dims_and_types(width, dtype, capfd, shared):
  _, share = compiled(mesh_of({}), (2, 8192, 8, width), jnp.dtype(dtype))
  found = report(capfd, shared, f'N=8192 D={width} {dtype}, {share:.1f} of q temporary,')
  assert_efficient(found)
  assert share < 8


def test_prompts_and_narrow_heads(capfd, shared):
  """Use more queries than a block, fewer keys, and a head dimension without a useful divisor."""
  mesh = mesh_of({})

  def passes(q, k, q_bits, k_bits, dy):
    y, pull = jax.vjp(lambda q, k: object_attention(q, k, k, q_bits, k_bits), q, k)
    return y, *pull(dy)

  def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, WHOLE))

  q, k = array(2, 4100, 3, 20), array(2, 77, 3, 20)
  bits = [array(*x.shape[:2], dtype=jnp.int32) for x in (q, k)]
  with jax.set_mesh(mesh):
    jax.jit(passes).trace(q, k, *bits, q).lower(lowering_platforms=('cuda',)).compile()
  assert_efficient(report(capfd, shared, 'N=4100 M=77 D=20,'))


def assert_efficient(found):
  assert not found['serialized']
  for figures in found['forward'], found['backward']:
    assert figures['spilled'] == figures['local memory'] == 0
    assert figures['products'] > 0 and figures['exponentials'] > 0


def test_eight_gpus(capfd):
  mesh = mesh_of({'data': 2, 'sequence': 2, 'tensor': 2}, 8)
  tokens = PartitionSpec(*BATCH, 'sequence', 'tensor', None)
  program, _ = compiled(mesh, (4, 8192, 12, 128), tokens=tokens, samples=BATCH)
  capfd.readouterr()
  names = ('all-to-all', 'all-gather', 'collective-permute')
  found = {name: len(re.findall(rf' {name}(?:-start)?\(', program.as_text())) for name in names}
  assert found['all-to-all'] > 0 and found['all-gather'] == 0, found


def test_layers_that_are_computed_again(capfd):
  """Test the kernel's memory reference for gradients inside a scan and a checkpoint."""
  mesh = mesh_of({})
  x = jax.ShapeDtypeStruct((1, 1024, 2, 64), jnp.bfloat16, sharding=NamedSharding(mesh, WHOLE))
  bits = jax.ShapeDtypeStruct((1, 1024), jnp.int32, sharding=NamedSharding(mesh, WHOLE))

  def loss(x, bits):
    @jax.checkpoint
    def layer(x, _):
      return object_attention(x, x, x, bits, bits, implementation='gpu'), None

    return jax.lax.scan(layer, x, length=3)[0].astype(jnp.float32).sum()

  with jax.set_mesh(mesh):
    traced = jax.jit(jax.grad(loss)).trace(x, bits)
    program = traced.lower(lowering_platforms=('cuda',)).compile()
  capfd.readouterr()
  # Forward, recomputed forward, backward.
  assert program.as_text().count('custom_call_target="mosaic_gpu_v2"') == 3


def test_too_little_shared_memory():
  mesh = mesh_of({})
  x = jnp.zeros((1, 1, 256, 128), jnp.bfloat16)
  bits = jnp.zeros((1, 256), jnp.int32)
  block_mask = list_blocks(bits, bits, (128, 256), 'gpu')
  with (
    jax.set_mesh(mesh),
    pytest.raises(ValueError, match=r'forward needs \d+ bytes of shared memory, there are 232448'),
  ):
    jax.eval_shape(lambda x: gpu.KERNEL.forward(x, x, x, bits, bits, block_mask, 1.0), x)


def test_what_is_kept_of_a_layer_is_computed_once():
  """XLA would compute a product twice if it is used now and also saved for the backward pass."""
  sizes = SimpleNamespace(width=2560, ffn=6144)
  blocks = nnx.eval_shape(lambda: stack(FeedForward, 4, sizes, nnx.Rngs(0)))
  graphdef, params = nnx.split(blocks)

  def loss(params, h):
    h = scan_blocks(nnx.merge(graphdef, params), h, None, 'dots')
    return h.astype(jnp.float32).sum()

  mesh = mesh_of({})
  with jax.set_mesh(mesh):
    place = NamedSharding(mesh, WHOLE)
    params, h = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      (params, jax.ShapeDtypeStruct((2, 4096, sizes.width), jnp.bfloat16)),
    )
    traced = compiler.jit(jax.grad(loss, argnums=(0, 1))).trace(params, h)
    lowered = traced.lower(lowering_platforms=('cuda',))
    program = lowered.compile(compiler_options={'xla_gpu_enable_triton_gemm': False})
  products = program.as_text().count('custom_call_target="__cublas')
  # Three kernels: one product forward and two backward for each.
  assert products == 9
