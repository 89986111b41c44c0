"""The mesh, and the sharding of each parameter of the large models."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from ttm_jax.configs import stage2_dit
from ttm_jax.errors import InputError
from ttm_jax.models.dit.sharding import SHARDING
from ttm_jax.parallel import mesh as meshes
from ttm_jax.parallel.mesh import (
  AXES,
  HOST,
  batch_sharding,
  check_batch,
  check_heads,
  make_mesh,
  replicated,
  shardings,
)
from ttm_jax.presets import preset
from ttm_jax.settings import from_config
from ttm_jax.text.encoders import TextEncoderSpec

EIGHT = list(range(8))  # Used as devices: a mesh only arranges them.


@pytest.fixture
def arranged(monkeypatch):
  """Make meshes of fake devices, and return them as arrays."""
  monkeypatch.setattr(meshes, 'Mesh', lambda devices, axes, axis_types: (devices, axes))
  return lambda sizes: make_mesh(sizes, EIGHT)


def test_sizes(arranged):
  devices, axes = arranged({'data': 2, 'tensor': 4})
  assert axes == ('data', 'fsdp', 'sequence', 'tensor')
  np.testing.assert_array_equal(devices, np.arange(8).reshape(2, 1, 1, 4))
  assert arranged({'data': 1, 'fsdp': -1, 'sequence': 2, 'tensor': 1})[0].shape == (1, 4, 2, 1)
  assert arranged({'fsdp': 8, 'data': -1})[0].shape == (1, 8, 1, 1)


@pytest.mark.parametrize(
  'sizes, message',
  [
    (
      {'fsdp': 3, 'data': -1},
      r"'fsdp': 3.* does not fit 8 devices.* as \{'data': 2, 'fsdp': 4, .*\} do",
    ),
    ({'fsdp': 16}, r"does not fit 8 devices.* as \{'data': 1, 'fsdp': 8, .*\} do"),
    ({'fsdp': 4}, r"'fsdp': 4.* takes 4 devices, there are 8: .*'fsdp': 8, .* takes them all"),
    ({}, 'takes 1 devices, there are 8'),
    ({'fsdp': -1, 'data': -1}, 'one may be -1'),
    ({'fsdp': 0, 'data': -1}, 'does not fit 8 devices'),
    ({'fsdp': -2, 'data': -4}, 'does not fit 8 devices'),
    ({'fdsp': 8}, r"axis 'fdsp' is unknown \(did you mean \"fsdp\"\?\)"),
  ],
)
def test_sizes_that_do_not_fit(arranged, sizes, message):
  with pytest.raises(InputError, match=message):
    arranged(sizes)


def test_mesh_of_the_devices_at_hand():
  mesh = make_mesh({'fsdp': -1})
  assert mesh.shape == {'data': 1, 'fsdp': jax.device_count(), 'sequence': 1, 'tensor': 1}
  x = np.arange(4.0)
  np.testing.assert_array_equal(jax.device_put(x, batch_sharding(mesh)), x)
  assert batch_sharding(mesh).spec == PartitionSpec(('data', 'fsdp'))
  assert replicated(mesh).spec == PartitionSpec()


def mesh_of(*sizes):
  return AbstractMesh(sizes, AXES)


def leaf(*shape):
  return jax.ShapeDtypeStruct(shape, np.float32)


def test_the_first_pattern_decides():
  table = (
    ('blocks.*up.kernel', (None, 'fsdp', 'tensor')),
    ('up', ('tensor', None)),
    ('kernel', (None, 'fsdp', None)),
  )
  tree = {
    'blocks': {'up': {'kernel': leaf(3, 8, 4)}, 'down': {'kernel': leaf(3, 8, 4)}},
    'up': leaf(4, 4),
    'bias': leaf(8),
  }
  got = jax.tree.map(lambda s: s.spec, shardings(tree, table, mesh_of(1, 4, 1, 2)))
  assert got['blocks']['up']['kernel'] == PartitionSpec(None, 'fsdp', 'tensor')
  assert got['blocks']['down']['kernel'] == PartitionSpec(None, 'fsdp', None)
  assert got['up'] == PartitionSpec('tensor', None)
  assert got['bias'] == PartitionSpec()


def test_axes_that_do_not_divide_are_not_split():
  table = (('kernel', ('fsdp', 'tensor')),)
  tree = {'kernel': leaf(6, 4), 'large': {'kernel': leaf(8, 4)}}
  got = shardings(tree, table, mesh_of(1, 4, 1, 2))
  assert got['kernel'].spec == PartitionSpec(None, 'tensor')
  assert got['large']['kernel'].spec == PartitionSpec('fsdp', 'tensor')


def test_a_mesh_that_divides_few_parameters():
  table = (('kernel', ('fsdp', 'tensor')),)
  tree = {'kernel': leaf(60, 4), 'small': {'kernel': leaf(8, 4)}}
  message = 'fsdp = 8 does not divide most parameters, such as kernel along its 60: 6 or 10 does'
  with pytest.raises(InputError, match=message):
    shardings(tree, table, mesh_of(1, 8, 1, 1))


def test_what_lies_on_the_host():
  table = (('^optimizer', HOST), ('kernel', ('fsdp', None)))
  tree = {'params': {'kernel': leaf(8, 4)}, 'optimizer': {'kernel': leaf(8, 4), 'count': leaf()}}
  got = shardings(tree, table, mesh_of(1, 4, 1, 2))
  kinds = jax.tree.map(lambda s: s.memory_kind, got)
  assert kinds['optimizer']['kernel'] == HOST and kinds['optimizer']['count'] != HOST
  assert kinds['params']['kernel'] != HOST
  assert got['optimizer']['kernel'].spec == got['params']['kernel'].spec


def test_what_a_batch_and_heads_divide_over():
  check_batch(32, 2, mesh_of(2, 8, 1, 1))
  with pytest.raises(InputError, match=r'40 must be a multiple of 32: .* nearest: 32 or 64'):
    check_batch(40, 2, mesh_of(2, 8, 1, 1))
  with pytest.raises(InputError, match=r'8 must be a multiple of 16: .* nearest: 16$'):
    check_batch(8, 1, mesh_of(1, 16, 1, 1))
  check_heads(20, {'tensor': 2, 'sequence': 5})
  message = r'20 heads .* sequence x tensor = 2 x 3: their product must be 5 or 10'
  with pytest.raises(InputError, match=message):
    check_heads(20, {'tensor': 3, 'sequence': 2})
  check_heads(8, {})


@dataclasses.dataclass(frozen=True)
class Chip:
  """The attributes of a TPU that determine a mesh."""

  id: int
  slice_index: int
  platform: str = 'tpu'


def test_slices_lie_along_data(monkeypatch):
  seen = {}
  monkeypatch.setattr(meshes, 'Mesh', lambda devices, axes, axis_types: devices)
  monkeypatch.setattr(
    meshes.mesh_utils,
    'create_hybrid_device_mesh',
    lambda within, between, devices, **_: seen.update(within=within, between=between),
  )
  chips = [Chip(i, i // 4) for i in range(8)]
  make_mesh({'data': 4, 'fsdp': 2}, chips)
  assert seen == {'within': (2, 2, 1, 1), 'between': (2, 1, 1, 1)}
  with pytest.raises(InputError, match='data = 1 must be a multiple of the 2 slices'):
    make_mesh({'fsdp': 8}, chips)


def test_state_of_the_optimiser_lies_with_its_parameters():
  table = (('blocks.*kernel', (None, 'fsdp')),)
  params = {'blocks': {'kernel': leaf(3, 8)}}
  state = ({'mu': params, 'count': leaf()}, [params])
  got = jax.tree.map(lambda s: s.spec, shardings(state, table, mesh_of(1, 4, 1, 2)))
  assert got[0]['mu']['blocks']['kernel'] == PartitionSpec(None, 'fsdp')
  assert got[1][0]['blocks']['kernel'] == PartitionSpec(None, 'fsdp')
  assert got[0]['count'] == PartitionSpec()


@functools.cache
def large():
  """Return shapes of the parameters of the 4B model of stage 2, by dotted path."""
  settings = stage2_dit.get_config()
  config = from_config(preset('dit').config, settings.model, 'model')
  encoders = {'ul2': TextEncoderSpec(4096, 512, 128), 'words': TextEncoderSpec(128, 48, 16)}
  model = nnx.eval_shape(lambda: preset('dit').build(config, encoders))
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='.'): x for path, x in leaves}


def split_over(spec):
  return {axis for axis in spec if axis}


def test_no_large_parameter_of_the_4b_model_is_on_every_device():
  specs = {k: s.spec for k, s in flat(shardings(large(), SHARDING, mesh_of(1, 8, 1, 2))).items()}
  shapes = {k: x.shape for k, x in flat(large()).items()}
  for name, spec in specs.items():
    if name.endswith('kernel') and 'blocks' in name:
      assert split_over(spec) == {'fsdp', 'tensor'} and spec[0] is None, name
  whole = {name: int(np.prod(shapes[name])) for name, s in specs.items() if not split_over(s)}
  total = sum(int(np.prod(shape)) for shape in shapes.values())
  assert sum(whole.values()) < 0.001 * total
  # The rest are the small tables, norms, biases and the layer of the word encoder.
  assert max(whole.values()) == 30 * 6 * 2560
  for name in whole:
    assert any(
      part in name for part in ('table', 'norm', 'bias', 'gate', 'positions', 'text.words')
    ), name


@pytest.mark.parametrize('tensor', [1, 2, 4])
def test_tensor_parallel_products_need_one_sum_a_layer(tensor):
  """Columns of the first kernel and rows of the second are sharded alike: no gather between."""
  specs = flat(shardings(large(), SHARDING, mesh_of(1, 8, 1, tensor)))
  for layer in ('blocks', 'masked_blocks'):
    for first, second in (('ffn.up', 'ffn.down'), ('attn.value', 'attn.out')):
      _, rows, columns = specs[f'{layer}.{first}.kernel'].spec
      _, next_rows, next_columns = specs[f'{layer}.{second}.kernel'].spec
      assert (columns, rows) == (next_rows, next_columns) == ('tensor', 'fsdp')
