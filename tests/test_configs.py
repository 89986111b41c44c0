"""The shipped configurations: their resolved values, and that each of them trains.

The resolved configurations are in tests/golden. After an intended change,

    python -m tests.test_configs

rewrites them; the diff shows in review how the change affects every run.
"""

import functools
import importlib
import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cli, tiny
from ttm_jax.models.stacked_transfer import SIBLINGS
from ttm_jax.preset_names import DEFAULT
from ttm_jax.presets import model_config
from ttm_jax.report.results import read_metrics
from ttm_jax.settings import from_json, to_json
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.objective import Objective
from ttm_jax.training.objectives import denoising
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.sources import read_parameters
from ttm_jax.training.state import create
from ttm_jax.training.step import make_step

# The others take up to a minute each to compile.
COMPILED = ('demo_stage1', 'demo_stage2', 'stage2_dit')
GOLDEN = tiny.ROOT / 'tests' / 'golden'


def test_which_are_shipped():
  names = {path.stem for path in (tiny.ROOT / 'configs').glob('[a-z]*.py')}
  runnable = {
    n for n in names if hasattr(importlib.import_module(f'ttm_jax.configs.{n}'), 'get_config')
  }
  # An ablation is no run.
  assert {n for n in runnable if not n.startswith('ablate_')} == set(tiny.SHIPPED)
  assert {path.stem for path in GOLDEN.glob('*.json')} == set(tiny.SHIPPED)


@pytest.mark.parametrize('name', tiny.SHIPPED)
def test_they_resolve_to_what_was_agreed(name):
  config = tiny.shipped(name)
  golden = json.loads((GOLDEN / f'{name}.json').read_text())
  assert json.loads(to_json(config)) == golden, 'if meant: python -m tests.test_configs'
  assert from_json(to_json(config)).to_dict() == config.to_dict()


def test_the_figures_of_the_paper():
  stage2, stage1 = tiny.shipped('stage2_dit'), tiny.shipped('stage1_dit')
  assert (stage2.optimizer.learning_rate, stage2.data.batch_size) == (2e-5, 32)
  assert (stage2.model.masked_blocks, stage2.model.layers, stage2.model.width) == (10, 40, 2560)
  assert (stage2.process.steps, stage2.train.steps, stage2.train.dropout) == (50, 50_000, 0.05)
  # Stage 1 has no masked layers, and both are conditioned on two latents of 16 channels.
  assert stage1.model.masked_blocks == 0
  assert model_config(stage1).visual_channels == model_config(stage2).visual_channels == 2 * 16


@pytest.fixture(scope='module')
def trained(latents_for, stage1, stage2, tmp_path_factory):
  """Train a configuration by name at test size, with `ttm_jax.train`; return the run."""
  folder = tmp_path_factory.mktemp('configs')
  known = {'demo_stage1': stage1, 'demo_stage2': stage2}

  def run(name, out=None, **changes):
    path = folder / (out or name)
    if not changes and name in known:
      return known[name]
    data = latents_for(tiny.shipped(name).preset)
    ended = cli.run(*tiny.train_command(name, path, data, **changes))
    assert ended.code == 0, ended.err
    return known.setdefault(out or name, path)

  return run


def kind(name):
  """Return what decides about the train step at the size of the tests, besides the optimizer."""
  config = tiny.shipped(name)
  return config.get('preset'), config.task, config.distill.method if 'distill' in config else ''


# One configuration of each kind, by Muon where there is one, is traced by `make test`; the others
# are by `make test-slow`, and so are students of other presets than the default.
TRACED = {
  kind(name): name
  for name in sorted(tiny.SHIPPED, key=lambda name: bool(tiny.shipped(name).optimizer.muon_rate))
  if 'distill' not in name or tiny.shipped(name).preset == DEFAULT
}


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=() if n in TRACED.values() else pytest.mark.slow) for n in tiny.SHIPPED],
)
def test_the_train_step_of_each_can_be_traced(clips, latents_for, name):
  """Trace the step, which checks shapes and dtypes; `test_each_trains` compiles and runs it."""
  shipped = tiny.shipped(name)
  if shipped.task == 'codec':
    objective: Objective = CodecTraining(tiny.shrunk(name, clips))
  else:
    objective = denoising(tiny.shrunk(name, latents_for(shipped.preset)))
  optimizer = make_optimizer(shipped.optimizer, 4)
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: objective.build(0)))

  def initial():
    _, params = nnx.split(objective.build(0))
    return create(nnx.to_pure_dict(params), optimizer)

  state, arrays = jax.eval_shape(initial), next(iter(objective.batches('train', 0)))
  step = make_step(objective, graphdef, optimizer, 1, 0.9)
  new, metrics = jax.eval_shape(step, state, arrays, jax.random.key(0))
  assert jax.tree.all(
    jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), new, state)
  )
  assert {'loss', 'grad_norm'} <= set(metrics)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(n, marks=() if n in COMPILED else pytest.mark.slow)
    for n in tiny.SHIPPED
    if 'codec' not in n and 'distill' not in n  # Students need a teacher.
  ],
)
def test_each_trains(trained, name):
  lines = [m for m in read_metrics(trained(name)) if 'train/loss' in m]
  assert [m['step'] for m in lines[:4]] == [1, 2, 3, 4]
  assert np.isfinite([m['train/loss'] for m in lines]).all()
  # An untrained network predicts 0: the loss is the mean square of the target.
  # Data and v have unit variance; velocity and flow are the difference of two such variables.
  target = 2.0 if tiny.shipped(name).process.get('prediction') in ('velocity', 'flow') else 1.0
  # The difference from the first frame is small where little moves.
  least = 0.01 if tiny.shipped(name).first_frame == 'change' else 0.5
  assert least * target < lines[0]['train/loss'] < 1.5 * target


def test_a_stage_starts_from_the_pre_trained(trained):
  source = trained('pretrain_dit')
  run = trained('stage2_dit', out='from-pretrained', init_from=str(source), train__steps=1)
  # The first step of the warm-up has learning rate 0: transferred parameters are unchanged.
  old, new = read_parameters(source), read_parameters(run)
  untrained = read_parameters(trained('stage2_dit'))
  masked = new['masked_blocks']

  def equal(a, b):
    # The EMA of equal parameters differs from them by rounding; a step changes 1 in 10,000.
    close = jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-6, atol=1e-9), a, b)
    return all(jax.tree.leaves(close))

  siblings = {k: v for k, v in masked.items() if k not in SIBLINGS}
  assert equal(siblings, jax.tree.map(lambda x: x[:1], old['blocks']))
  assert equal(new['blocks'], jax.tree.map(lambda x: x[1:], old['blocks']))
  for name in ('embed', 'head', 'text', 'time', 'positions', 'modulation'):
    assert equal(new[name], old[name]), name
  assert not equal(new['blocks'], untrained['blocks'])
  assert not equal(new['embed'], untrained['embed'])
  for extra, (norm, attention) in SIBLINGS.items():
    assert equal(masked[extra]['norm'], masked[norm])
    assert equal(masked[extra]['attention'], masked[attention])
    assert not masked[extra]['gate'].any()
  assert not new['embed_visual']['kernel'].any()


@pytest.mark.slow
def test_a_stage_of_the_unet_starts_from_the_adapted(trained):
  source = trained('adapt_unet')
  run = trained('stage2_unet', out='from-adapted', init_from=str(source), train__steps=1)
  old, new = read_parameters(source), read_parameters(run)
  close = functools.partial(np.allclose, rtol=1e-6, atol=1e-9)
  for name in ('conv_in', 'middle', 'up', 'text', 'time'):
    assert jax.tree.all(jax.tree.map(close, new[name], old[name])), name
  assert not new['conv_visual']['kernel'].any()
  block = new['down']['0']['units']['0']['spatial']['block']
  assert jax.tree.all(jax.tree.map(close, block['masked_attn']['attention'], block['attn']))
  assert jax.tree.all(jax.tree.map(close, block['masked_cross_attn']['norm'], block['norm2']))
  assert not block['masked_attn']['gate'].any()


def test_another_width_cannot_be_started_from(trained, latents, tmp_path):
  source = trained('pretrain_dit')
  changes = {'init_from': str(source), 'model__width': 64}
  ended = cli.run(*tiny.train_command('stage2_dit', tmp_path / 'run', latents, **changes))
  assert (ended.code, ended.out) == (2, '')
  assert ended.err == (
    f'error: run {source} has another architecture: model.width is 32 there, 64 is needed\n'
  )
  assert not (tmp_path / 'run').exists()


def write_golden() -> None:
  """Rewrite the golden files."""
  for path in GOLDEN.glob('*.json'):
    path.unlink()
  GOLDEN.mkdir(exist_ok=True)
  for name in tiny.SHIPPED:
    (GOLDEN / f'{name}.json').write_text(to_json(tiny.shipped(name)))


if __name__ == '__main__':
  write_golden()
