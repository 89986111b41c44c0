"""Runs that train adapters and new parts: what they hold, how they resume and are read."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from tests.helpers import tiny
from tests.helpers.networks import same
from ttm_jax.errors import InputError
from ttm_jax.nn import lora
from ttm_jax.report.results import read_metrics
from ttm_jax.training import sources
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.loop import train
from ttm_jax.training.partial import by_name
from ttm_jax.training.runs import read_config
from ttm_jax.training.sources import read_parameters

NAMES = {'dit': ('pretrain_dit', 'stage2_dit'), 'unet': ('adapt_unet', 'stage2_unet')}
STEPS = 30
LORA = {'lora__rank': 2, 'lora__dropout': 0.1}
START = {'train__steps': 0, 'train__evaluate_every': 0}
OFTEN = {'train__checkpoint_every': STEPS // 2, 'train__evaluate_every': STEPS}


def begun(name, data, run, **changes):
  """Train a configuration in float32 at a high rate; return its objective and the last state."""
  changes = {'model__dtype': 'float32', 'optimizer__learning_rate': 1e-2} | changes
  objective = Denoising(tiny.shrunk(name, data, **changes))
  return objective, train(objective.config, objective, run)


def reads_config(run, **changes):
  """Change values of the configuration of a run."""
  values = json.loads((run / 'config.json').read_text())
  (run / 'config.json').write_text(json.dumps(values | changes))


class Runs:
  """The runs of one backbone, made when they are asked for."""

  def __init__(self, preset, data, folder):
    self.data, self.folder = data, folder
    self.first, self.second = NAMES[preset]

  @functools.cached_property
  def base(self):
    """A text-to-video run."""
    begun(self.first, self.data, self.folder / 'base', train__steps=STEPS)
    return self.folder / 'base'

  def lora(self, name, **changes):
    """A LoRA run of stage 2 on top of it: (objective, state)."""
    changes = {'init_from': str(self.base), 'train__steps': STEPS} | LORA | OFTEN | changes
    return begun(self.second, self.data, self.folder / name, **changes)

  @functools.cached_property
  def begun(self):
    """One before its first step, with an exact base."""
    return self.lora('begun', **START, lora__base_dtype='float32')

  @functools.cached_property
  def whole(self):
    """One that was not interrupted, with a rounded base."""
    return self.lora('whole')


@pytest.fixture(scope='module')
def dit(latents, tmp_path_factory):
  return Runs('dit', latents, tmp_path_factory.mktemp('dit'))


@pytest.fixture(scope='module')
def unet(unet_latents, tmp_path_factory):
  return Runs('unet', unet_latents, tmp_path_factory.mktemp('unet'))


# Compiling the train step of the U-Net takes a minute.
BACKBONES = ['dit', pytest.param('unet', marks=pytest.mark.slow)]


@pytest.fixture
def runs(request):
  return request.getfixturevalue(request.param)


every_backbone = pytest.mark.parametrize('runs', BACKBONES, indirect=True)


def predictions(objective, params, adapted):
  """Return what the network predicts for a batch; with or without the graph of the adapters."""
  build = objective.build if adapted else objective.denoiser.build
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(0)))
  arrays = next(objective.batches('train', 0))

  @jax.jit
  def predict(params):
    model = nnx.merge(graphdef, params)
    target, condition = objective.denoiser.known(arrays, jax.random.key(0))
    return objective.denoiser.predictor(model)(target, 0.5 * np.ones(len(target)), condition)

  return np.asarray(predict(params))


@every_backbone
def test_it_begins_as_the_network_it_came_from(runs):
  objective, state = runs.begun
  _, full = runs.lora('full', **START, lora__rank=0)
  wanted = predictions(objective, full.average, adapted=False)
  assert np.abs(wanted).max() > 0.1
  np.testing.assert_array_equal(predictions(objective, state.average, adapted=True), wanted)
  # The trained parts are those that a full run begins with, too.
  shared = by_name(full.params)
  for name, leaf in by_name(state.params).items():
    assert lora.is_adapter(name) or np.array_equal(leaf, shared[name]), name


@every_backbone
def test_what_trains_is_small_and_the_rest_stays(runs):
  state = runs.whole[1]
  trained, frozen = by_name(state.params), by_name(state.frozen)
  assert not trained.keys() & frozen.keys()
  assert {n for n in trained if 'masked_attn' in n} and {n for n in trained if 'visual' in n}
  for name in trained:
    assert lora.is_adapter(name) or 'masked' in name or 'visual' in name or name.startswith('text')
  assert {str(x.dtype) for x in trained.values()} == {'float32'}
  kernels = [name for name in frozen if name.endswith('.kernel')]
  assert {str(frozen[n].dtype) for n in kernels} == {'bfloat16'}
  bytes_ = {
    field: sum(x.nbytes for x in jax.tree.leaves(getattr(state, field)))
    for field in ('params', 'ema', 'optimizer')
  }
  assert bytes_['ema'] == bytes_['params']
  assert bytes_['optimizer'] == 2 * bytes_['params'] + 2 * 4  # And two counters.
  begun = runs.begun[1]
  for name, x in by_name(begun.frozen).items():
    np.testing.assert_array_equal(frozen[name], x.astype(frozen[name].dtype))
  moved = [n for n in trained if not np.array_equal(trained[n], by_name(begun.params)[n])]
  assert {n.rpartition('.')[2] for n in moved} >= {'lora_a', 'lora_b', 'gate', 'kernel'}


@every_backbone
def test_the_loss_falls(runs):
  assert runs.whole
  lines = read_metrics(runs.folder / 'whole')
  losses = {m['step']: m['validation/loss'] for m in lines if 'validation/loss' in m}
  assert losses[STEPS] < losses[0]  # Of the same clips with the same noise.


@every_backbone
def test_a_checkpoint_holds_what_trains(runs):
  state = runs.whole[1]
  checkpoints = Checkpoints(runs.folder / 'whole' / 'checkpoints', read_only=True)
  assert checkpoints.shapes(STEPS) == jax.tree.map(lambda x: x.shape, state.params)
  size, whole = (
    sum(p.stat().st_size for p in (run / 'checkpoints' / str(STEPS)).rglob('*') if p.is_file())
    for run in (runs.folder / 'whole', runs.base)
  )
  assert size < whole


@every_backbone
def test_resuming_continues_bit_by_bit(runs, tmp_path, capfd):
  """Also if the base has moved in the meantime."""
  runs.lora('interrupted', train__steps=STEPS // 2)
  moved = shutil.copytree(runs.base, tmp_path / 'moved')
  state = runs.lora('interrupted', init_from=str(moved))[1]
  assert f'continues after step {STEPS // 2}' in capfd.readouterr().err
  assert same(state, runs.whole[1])
  assert read_config(runs.folder / 'interrupted').init_from == str(moved)
  losses = [
    {m['step']: m['train/loss'] for m in read_metrics(runs.folder / name) if 'train/loss' in m}
    for name in ('whole', 'interrupted')
  ]
  assert losses[0] == losses[1] and len(losses[0]) == STEPS


@every_backbone
def test_a_run_is_read_as_plain_parameters(runs):
  objective, state = runs.whole
  plain = read_parameters(runs.folder / 'whole')
  wanted = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: objective.denoiser.build(0))))
  assert jax.tree.map(lambda x: x.shape, plain) == jax.tree.map(lambda x: x.shape, wanted)
  assert {str(x.dtype) for x in jax.tree.leaves(plain)} == {'float32'}
  adapted = predictions(objective, state.average, adapted=True)
  merged = predictions(objective, plain, adapted=False)
  assert np.abs(merged - predictions(objective, without_adapters(state), False)).max() > 1e-3
  np.testing.assert_allclose(merged, adapted, atol=1e-6 * np.abs(adapted).max(), rtol=0)


def without_adapters(state):
  def strip(tree):
    return {
      k: strip(v) if isinstance(v, dict) else v for k, v in tree.items() if not lora.is_adapter(k)
    }

  return strip(state.average)


def test_a_run_starts_from_a_lora_run(dit):
  assert dit.whole
  start = str(dit.folder / 'whole')
  _, state = dit.lora('lora of lora', init_from=start, lora__base_dtype='float32', **START)
  plain = by_name(read_parameters(dit.folder / 'whole'))
  frozen = by_name(state.frozen)
  assert frozen and all(np.array_equal(x, plain[n]) for n, x in frozen.items())


# Mistakes.


def copied(dit, name, tmp_path):
  assert dit.whole
  return shutil.copytree(dit.folder / name, tmp_path / name)


def test_another_base_is_refused(dit, tmp_path):
  run = copied(dit, 'whole', tmp_path)
  other = tmp_path / 'other'
  begun(dit.first, dit.data, other, train__steps=1, seed=1)
  sentence = (
    rf'{other} is not the base that run {run} adapts: parameter blocks\.attn\.key\.kernel differs;'
    ' put that base back, or let init_from name the place where it is now'
  )
  changes = {'init_from': str(other), 'train__steps': STEPS + 1} | LORA | OFTEN
  with pytest.raises(InputError, match=sentence):
    begun(dit.second, dit.data, run, **changes)
  reads_config(run, init_from=str(other))
  with pytest.raises(InputError, match=sentence):
    read_parameters(run)
  reads_config(run, init_from='/nowhere')
  with pytest.raises(InputError, match='/nowhere is not a run directory'):
    read_parameters(run)
  reads_config(run, init_from=str(run))
  with pytest.raises(InputError, match=f'run {run} is its own base: correct init_from in'):
    read_parameters(run)


def test_the_description_of_the_base_is_lost(dit, tmp_path):
  run = copied(dit, 'whole', tmp_path)
  (run / 'base.json').write_text('{"parameters": {"a": 1}}')
  with pytest.raises(InputError, match=r'base\.json, .* is missing or damaged .*: take it from a'):
    read_parameters(run)


def test_another_rank_is_refused(dit, tmp_path):
  run = copied(dit, 'whole', tmp_path)
  changes = {'init_from': str(dit.base), 'train__steps': STEPS} | LORA | OFTEN | {'lora__rank': 3}
  with pytest.raises(
    InputError, match=rf'{run} holds another run: config\.lora\.rank is 2 there and 3 here'
  ):
    begun(dit.second, dit.data, run, **changes)


@pytest.mark.parametrize(
  'changes, sentence',
  [
    (
      {'init_from': ''},
      r'config\.lora\.rank is 2, but there is nothing to adapt: set --config\.',
    ),
    ({'lora__targets': ('attn', 'mlp')}, 'no linear layer has "mlp" in its path; there are, for'),
    ({'lora__rank': -1}, r'config\.lora: rank must be 0 \(no adapters\) or above, got -1'),
  ],
)
def test_mistakes_are_told_before_anything_is_written(dit, tmp_path, changes, sentence):
  changes = {'init_from': str(dit.base)} | LORA | changes
  with pytest.raises(InputError, match=sentence):
    begun(dit.second, dit.data, tmp_path / 'run', **changes)
  assert not (tmp_path / 'run').exists()


def test_a_base_without_what_is_frozen(dit, tmp_path):
  class Less(Denoising):
    def source(self, init_from):
      source = super().source(init_from)
      return sources.Source({k: v for k, v in source.params.items() if k != 'head'})

  changes = {'init_from': str(dit.base)} | LORA
  config = tiny.shrunk(dit.second, dit.data, **changes)
  sentence = rf'{dit.base} has no values for parameter head\.bias, which LoRA does not train'
  with pytest.raises(InputError, match=sentence):
    train(config, Less(config), tmp_path / 'run')


def test_a_run_of_an_earlier_version_continues(dit, tmp_path):
  run = copied(dit, 'base', tmp_path)
  values = json.loads((run / 'config.json').read_text())
  del values['lora'], values['init_cache']
  (run / 'config.json').write_text(json.dumps(values))
  _, state = begun(dit.first, dit.data, run, train__steps=STEPS + 1)
  assert int(state.step) == STEPS + 1
