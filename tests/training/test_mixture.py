"""Runs on mixtures of datasets of different shapes: resume, validation, compiled steps."""

import itertools
import json

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from tests.helpers import cli, mixtures, tiny
from tests.helpers.mixtures import GRID, IMAGES, SQUARE, WIDE
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import make_mesh, replicated, shardings
from ttm_jax.report.results import read_metrics
from ttm_jax.training import loop
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.evaluator import _weighted
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.sources import read_parameters
from ttm_jax.training.state import create
from ttm_jax.training.step import make_step

STEPS, WEIGHTS = 10, (0.7, 0.3)
QUIET = {'train__evaluate_every': 0, 'train__sample_every': 0}


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  """The paths of three datasets; the second has no validation split."""
  folder = tmp_path_factory.mktemp('datasets')
  sizes = zip((SQUARE, WIDE, IMAGES), (4, 0, 4), strict=True)
  return [mixtures.dataset(folder / str(i), size, 8, held) for i, (size, held) in enumerate(sizes)]


def mixed(paths, weights=WEIGHTS):
  """Return the mixture of videos and images, or of as many datasets as there are weights."""
  chosen = paths if len(weights) == len(paths) else [paths[0], paths[-1]]
  return ','.join(f'{path}:{weight}' for path, weight in zip(chosen, weights, strict=True))


def settings(data, **changes):
  values = {'train__steps': STEPS, 'train__checkpoint_every': 4, 'train__evaluate_every': 5}
  values |= {'train__sample_every': 10, 'data__batch_size': 8}
  values |= {'model__grid': GRID, 'model__layers': 1}  # Each shape is compiled.
  return tiny.shrunk('demo_stage2', data, **values | changes)


@pytest.fixture(scope='module')
def run(paths, tmp_path_factory):
  """An uninterrupted run on the mixture."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  config = settings(mixed(paths))
  loop.train(config, Denoising(config), folder)
  return folder


def lines_of(run):
  return [line for line in read_metrics(run) if 'train/loss' in line]


@pytest.mark.slow
def test_a_run_that_dies_goes_on_bit_by_bit(run, paths, tmp_path, monkeypatch):
  config, count = settings(mixed(paths), **QUIET), itertools.count()
  place = loop.to_device

  def dies(batch, sharding):
    if next(count) == 6:
      raise RuntimeError('in the middle')
    return place(batch, sharding)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'to_device', dies)
    with pytest.raises(RuntimeError, match='in the middle'):
      loop.train(config, Denoising(config), tmp_path)
  assert [line['step'] for line in lines_of(tmp_path)][-1] >= 5
  loop.train(config, Denoising(config), tmp_path)
  found = {line['step']: line for line in lines_of(tmp_path)}
  wanted = {line['step']: line for line in lines_of(run)}
  assert list(wanted) == sorted(found) == list(range(1, STEPS + 1))
  for step, line in wanted.items():
    measured = [name for name in line if 'loss' in name or name == 'train/grad_norm']
    assert {name: found[step][name] for name in measured} == {n: line[n] for n in measured}, step
  jax.tree.map(np.testing.assert_array_equal, read_parameters(tmp_path), read_parameters(run))


def test_each_step_tells_the_loss_of_its_shape(run):
  names = [f'train/loss_{"x".join(map(str, size))}' for size in (SQUARE, IMAGES)]
  counts = dict.fromkeys(names, 0)
  for line in lines_of(run):
    (name,) = [name for name in names if name in line]
    assert line[name] == line['train/loss']
    counts[name] += 1
  np.testing.assert_allclose(list(counts.values()), np.multiply(WEIGHTS, STEPS), atol=1)
  assert all(line['train/mfu'] > 0 for line in lines_of(run))


def test_the_validation_loss_is_weighted(run):
  held = [line for line in read_metrics(run) if 'validation/loss' in line]
  assert [line['step'] for line in held] == [0, 5, 10]
  for line in held:
    square, images = line['validation/loss_4x16x16'], line['validation/loss_1x16x16']
    assert line['validation/loss'] == pytest.approx(0.7 * square + 0.3 * images)
  parts = [(3.0, {'a': 1.0, 'b': 2.0}), (1.0, {'a': 5.0, 'c': 7.0})]
  assert _weighted(parts) == {'a': 2.0, 'b': 2.0, 'c': 7.0}
  assert (run / 'samples' / 'step_0000010.png').exists()


def test_which_datasets_are_evaluated(paths, tmp_path):
  """Those with a validation split, or all if none has one."""

  def evaluated(objective):
    return [
      (weight, [batch['video'].shape[1] for batch in batches])
      for weight, batches in objective.validation(2)
    ]

  objective = Denoising(settings(mixed(paths, (0.5, 0.3, 0.2))))
  assert objective.has_validation
  assert evaluated(objective) == [(0.5, [2, 2]), (0.2, [1, 1])]
  other = mixtures.dataset(tmp_path / 'other', IMAGES)
  objective = Denoising(settings(mixed([paths[1], other])))
  assert not objective.has_validation
  assert evaluated(objective) == [(0.7, [3, 3]), (0.3, [1, 1])]


def test_the_run_keeps_one_context_with_all_shapes(run, paths):
  context = Context.load(run)
  assert context.encoding == Context.load(paths[0]).encoding
  found = [(shape.size, shape.grids, shape.weight) for shape in context.shapes]
  assert found == [(SQUARE, ((2, 2),), 0.7), (IMAGES, ((2, 2),), 0.3)]


def test_other_weights_or_datasets_do_not_resume(run, paths):
  before = json.loads((run / 'config.json').read_text())
  for data, said in (
    (mixed(paths, (0.6, 0.4)), 'a mixture of 4x16x16:0.6, 1x16x16:0.4'),
    (mixed(paths[:2]), 'a mixture of 4x16x16:0.7, 6x16x24:0.3'),
    (paths[0], 'one dataset'),
  ):
    config = settings(data, train__steps=12)
    with pytest.raises(InputError) as error:
      loop.train(config, Denoising(config), run)
    assert str(error.value) == (
      f'{run} was begun with a mixture of 4x16x16:0.7, 1x16x16:0.3, and {data} is {said}: give the'
      ' datasets and weights that it was begun with, or another --workdir'
    )
  assert json.loads((run / 'config.json').read_text()) == before
  Denoising(settings(mixed(paths))).check_run(epath.Path(run))


def test_a_dataset_too_large_for_the_network_is_named(paths):
  with pytest.raises(
    InputError, match=r'^clips of 6x16x24: latents of the dataset are \(3, 4, 6\)'
  ):
    Denoising(settings(mixed(paths[:2]), model__grid=(2, 4, 4)))
  with pytest.raises(InputError, match=r'^latents of the dataset are \(3, 4, 6\)'):
    Denoising(settings(paths[1], model__grid=(2, 4, 4)))


@pytest.mark.slow
def test_one_compiled_step_a_shape_that_donates_its_state(paths):
  config = settings(mixed(paths))
  objective, mesh = Denoising(config), make_mesh(config.mesh)
  optimizer = make_optimizer(config.optimizer, STEPS)
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: objective.build(0)))

  def initial():
    _, params = nnx.split(objective.build(0))
    return create(nnx.to_pure_dict(params), optimizer, kinds=objective.kinds)

  wanted = shardings(jax.eval_shape(initial), objective.sharding, mesh)
  traced = []
  step = make_step(objective, graphdef, optimizer, 1, 0.9, 10.0)

  def counted(state, arrays, root):
    traced.append(arrays['video'].shape[1:4])
    return step(state, arrays, root)

  with jax.set_mesh(mesh):
    state = jax.jit(initial, out_shardings=wanted)()
    fast = compiler.jit(counted, donate_argnums=0, out_shardings=(wanted, replicated(mesh)))
    flops = {}
    for arrays in itertools.islice(objective.batches('train', 0), 6):
      old = state
      state, metrics = fast(old, arrays, jax.random.key(0))
      assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
      assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding == s, state, wanted)))
      total, samples = metrics['gflops']
      flops[arrays['video'].shape[1]] = float(total / samples)
  assert sorted(traced) == [(1, 4, 4), (2, 4, 4)]
  assert 0.4 < flops[1] / flops[2] < 0.7  # Images have half the tokens of these videos.
  np.testing.assert_array_equal(state.guard.counted, [5, 1])


@pytest.mark.slow
def test_eight_devices_agree_with_one(run, paths, tmp_path):
  """On a mesh that shards both the batch and the parameters."""
  config = settings(mixed(paths), mesh__data=2, mesh__fsdp=4, **QUIET)
  base = tiny.shipped('demo_stage2')
  flags = tiny.flags(config, base)
  env = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  file = f'--config={tiny.ROOT}/configs/demo_stage2.py'
  ended = cli.run('ttm_jax.train', file, f'--workdir={tmp_path}/run', *flags, env=env)
  assert ended.code == 0, ended.err
  assert 'parameters on 8 x cpu' in ended.err
  losses = [[line['train/loss'] for line in lines_of(path)] for path in (tmp_path / 'run', run)]
  np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_a_codec_is_trained_on_one_dataset(tmp_path):
  ended = cli.run(
    'ttm_jax.train', '--config=codec_tae', f'--workdir={tmp_path}/run', '--config.data.path=a:1,b:1'
  )
  assert (ended.code, ended.err) == (
    2,
    'error: config.data.path names 2 datasets: a codec is trained on one of clips\n',
  )
