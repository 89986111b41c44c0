"""Configurations: error messages for invalid ones, and files that keep all values."""

import importlib
import json
import pathlib
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from ttm_jax.configs import demo_stage2, stage2_dit
from ttm_jax.errors import InputError
from ttm_jax.models.dit.model import DiTConfig
from ttm_jax.presets import model_config
from ttm_jax.processes.flow_matching import FlowMatching
from ttm_jax.settings import (
  first_difference,
  from_config,
  from_json,
  load_config,
  parse_flags,
  to_json,
)

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
STAGE2 = CONFIGS / 'stage2_dit.py'


def test_a_section_becomes_its_dataclass():
  section = ConfigDict({'width': 64, 'heads': 2, 'patch': [1, 2]})
  config = from_config(DiTConfig, section, 'model')
  assert config == DiTConfig(width=64, heads=2, patch=(1, 2)) and config.layers == 40
  assert isinstance(config.patch, tuple)


@pytest.mark.parametrize(
  'kind, section, name, message',
  [
    (
      DiTConfig,
      {'masked_block': 2},
      'model',
      'config.model.masked_block is unknown (did you mean "masked_blocks"?)',
    ),
    (DiTConfig, {'xyz': 2}, 'model', 'config.model.xyz is unknown'),
    (
      DiTConfig,
      {'width': 65},
      'model',
      'config.model: width 65 must be a multiple of heads 20',
    ),
    (
      FlowMatching,
      {'steps': 51},
      'process',
      'config.process: steps must be even and at most emulated_steps=250, got 51',
    ),
  ],
)
def test_a_section_that_is_refused(kind, section, name, message):
  with pytest.raises(InputError) as error:
    from_config(kind, ConfigDict(section), name)
  assert str(error.value) == message


@pytest.fixture
def parse(monkeypatch):
  """Parse a command line as `python -m ttm_jax.train` does; return config and remaining argv."""

  def run(*arguments):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # The previous file.
    holder = config_flags.DEFINE_config_file('config', None, 'a file', flag_values=values)
    flags.mark_flag_as_required('config', values)
    argv = ['train', *map(str, arguments)]
    monkeypatch.setattr(sys, 'argv', argv)  # ml_collections looks there for --config.x.y.
    return parse_flags(argv), holder.value

  return run


def test_shipped_configurations_have_names(parse, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # A wheel has no folder `configs` beside it.
  for named in (['--config=stage2_dit'], ['--config', 'stage2_dit']):
    _, config = parse(*named, '--config.train.steps=7')
    assert config.train.steps == 7 and config.model.masked_blocks == 10
  assert load_config('stage2_dit').to_dict() == stage2_dit.get_config().to_dict()
  with pytest.raises(InputError, match=r'no shipped configuration .*did you mean "stage2_dit"'):
    parse('--config=stage2_dti')
  # What configurations share is not one.
  with pytest.raises(InputError, match='no shipped configuration of that name'):
    load_config('base')


@pytest.mark.parametrize(
  'task, channels',
  [('text_to_video', 0), ('image_to_video', 16), ('image_to_motion', 32), ('motion_to_video', 32)],
)
def test_the_task_decides_the_visual_channels(task, channels):
  config = stage2_dit.get_config()
  config.task = task
  assert model_config(config).visual_channels == channels
  config.task = 'motion_to_vidoe'
  with pytest.raises(InputError, match=r'task .* is unknown.*did you mean "motion_to_video"'):
    model_config(config)


def test_flags_override_a_file(parse):
  for named in ([f'--config={STAGE2}'], ['--config', STAGE2]):
    rest, config = parse(*named, '--config.train.steps=7', '--config.data.path=x=y')
    assert rest == ['train']
    assert (config.train.steps, config.data.path, config.model.masked_blocks) == (7, 'x=y', 10)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--config=no/such.py'], 'config file no/such.py does not exist'),
    (['-config=no/such.py:3'], 'config file no/such.py does not exist'),
    (['--config', 'no/such.py'], 'config file no/such.py does not exist'),
    ([f'--config={CONFIGS}'], f'config file {CONFIGS} does not exist'),
    ([], 'flag --config=None: Flag --config must have a value other than None.'),
    (
      [f'--config={CONFIGS}/base.py'],
      f'{CONFIGS}/base.py is not a configuration: it has no get_config()',
    ),
    (
      [f'--config={STAGE2}', '--config.train.stepz=7'],
      'unknown config key \'stepz\'. Did you mean "steps" instead of "stepz"?',
    ),
    ([f'--config={STAGE2}', '--config.nosuch.steps=7'], "unknown config key 'nosuch'"),
    (
      [f'--config={STAGE2}', '--config.train.steps=many'],
      "flag --config.train.steps=many: invalid literal for int() with base 10: 'many'",
    ),
    ([f'--config={STAGE2}', '--wrokdir=x'], "Unknown command line flag 'wrokdir'"),
    (
      [f'--config={STAGE2}', 'config.train.steps=7'],
      "unexpected argument 'config.train.steps=7': options are written --name=value",
    ),
  ],
)
def test_a_command_line_that_is_refused(parse, arguments, message):
  with pytest.raises(InputError) as error:
    parse(*arguments)
  assert str(error.value) == message


@pytest.mark.parametrize(
  'name', sorted(f.stem for f in CONFIGS.glob('*.py') if 'def get_config' in f.read_text())
)
def test_a_file_keeps_the_whole_configuration(name):
  config = importlib.import_module(f'ttm_jax.configs.{name}').get_config()
  text = to_json(config)
  back = from_json(text)
  assert back.to_dict() == config.to_dict() and to_json(back) == text
  assert first_difference(back.to_dict(), config.to_dict()) is None


def test_a_file_is_stable_and_keeps_tuples():
  a = to_json(ConfigDict({'b': {'y': (1, 2), 'x': 1.5}, 'a': True}))
  assert a == to_json(ConfigDict({'a': True, 'b': {'x': 1.5, 'y': (1, 2)}}))
  assert json.loads(a) == {'a': True, 'b': {'x': 1.5, 'y': [1, 2]}} and a.endswith('}\n')
  assert from_json(a).b.y == (1, 2)
  with pytest.raises(AttributeError):
    _ = from_json(a).b.z


def test_first_difference():
  config = stage2_dit.get_config().to_dict()
  assert first_difference(config, stage2_dit.get_config().to_dict()) is None
  key, ours, demos = first_difference(config, demo_stage2.get_config().to_dict())
  assert (key, ours, demos) == ('data.batch_size', 32, 16)  # The first in alphabetical order.
  assert first_difference({'a': (1, 2)}, {'a': [1, 2]}) is None
  assert first_difference({'a': {'b': 1}}, {'a': {'b': 1, 'c': 2}}) == ('a.c', None, 2)
  assert first_difference({'a': {'b': 1}, 'z': 0}, {'a': 3, 'z': 1}) == ('a', {'b': 1}, 3)
