"""The recipes of the demo and the showcase: their steps, which of them run, and on what."""

import importlib
import json
import types

import pytest

from tests.helpers import cli, tiny
from ttm_jax.commands import demo, environment, showcase
from ttm_jax.errors import InputError


def test_the_steps_of_the_demo(tmp_path):
  root = tmp_path
  found = demo.steps(root, demo.RECIPES['wan'])
  assert [(step.name, step.done) for step in found] == [
    ('Make scenes', root / 'clips'),
    ('Encode them', root / 'latents'),
    ('Train stage 1, image to motion', None),
    ('Train stage 2, motion to video', None),
    ('Evaluate', None),
  ]
  assert found[0].command[1:4] == [f'--out={root}/clips', '--train=6144', '--validation=256']
  assert found[1].command == [
    *('data_tools.encode', f'--clips={root}/clips', f'--out={root}/latents', '--preset=wan'),
    *('--codec=lapped:2x6x6x32', '--max_objects=3', '--words_length=32'),
    *('--words_prompt_length=12', '--no-permute'),
  ]
  assert found[3].command == [
    *('ttm_jax.train', '--config=demo_wan_stage2', f'--workdir={root}/stage2'),
    f'--config.data.path={root}/latents',
  ]
  assert found[4].command[-2:] == [f'--clips={root}/clips', f'--out={root}']
  quick = demo.steps(root, demo.RECIPES['dit'], quick=True)
  assert quick[0].command[2:4] == ['--train=64', '--validation=8']
  assert quick[2].command[-1] == '--config.train.steps=20'


@pytest.mark.parametrize('size', showcase.RECIPES)
def test_the_parts_of_the_showcase(size, tmp_path):
  recipe = showcase.RECIPES[size]
  found = demo.steps(tmp_path, recipe)
  scenes = [s.command for s in found if s.command[0] == 'data_tools.make_scenes']
  encoded = [s.command for s in found if s.command[0] == 'data_tools.encode']
  assert len(scenes) == len(encoded) == recipe.parts and recipe.train % recipe.parts == 0
  # Each part has scenes of its own; the first has all of the validation, and fits the codec.
  assert scenes[0][1:4] == [
    *(f'--out={tmp_path}/clips/00', f'--train={recipe.train // recipe.parts}'),
    '--validation=256',
  ]
  assert [c[-1] for c in scenes[1:]] == [f'--seed={i}' for i in range(1, recipe.parts)]
  assert all('--validation=0' in c for c in scenes[1:])
  assert [c[4] for c in encoded] == [
    f'--codec={recipe.codec}',
    *[f'--codec={tmp_path}/latents/00'] * (recipe.parts - 1),
  ]
  assert found[-2].command[3] == f'--config.data.path={tmp_path}/latents'
  assert found[-1].command[3] == f'--clips={tmp_path}/clips/00'


@pytest.mark.parametrize('recipe', [*demo.RECIPES.values(), *showcase.RECIPES.values()])
def test_all_commands_can_be_parsed(recipe, tmp_path):
  for step in demo.steps(tmp_path, recipe, quick=True):
    module, *arguments = step.command
    if module != 'ttm_jax.train':
      importlib.import_module(module).parser().parse_args(arguments)
    else:
      config = tiny.shipped(arguments[0].removeprefix('--config='))
      keys = [a[9:].partition('=')[0] for a in arguments if a.startswith('--config.')]
      assert all(key in config.to_dict() or _has(config, key) for key in keys)


def _has(config, key):
  for name in key.split('.'):
    config = config[name]
  return True


def test_the_sizes_of_the_showcase():
  small, large = (tiny.shipped(showcase.RECIPES[size].configs[1]) for size in ('64', '128'))
  for config, side in ((small, 64), (large, 128)):
    assert (*config.model.grid,) == (16 // 2, side // 8, side // 8)
    assert config.model.channels == 48
  # Token masks of the datasets are of the network's patches, which are not those of the preset.
  for recipe in showcase.RECIPES.values():
    named, (one, two) = recipe.encode[0].removeprefix('--config='), recipe.configs
    assert named in recipe.configs
    assert tiny.shipped(one).model.patch == tiny.shipped(two).model.patch == (1, 1)
  model = large.model  # See "Size of the 4B configuration" in the measurements.
  block = 8 * model.width**2 + 3 * model.width * model.ffn
  weights = model.layers * block + model.masked_blocks * 8 * model.width**2
  assert 60e6 < weights < 120e6 and model.dtype == 'bfloat16'


def showcase_args(**changes):
  return types.SimpleNamespace(**{'size': 'auto', 'workdir': None, 'quick': False, **changes})


def test_it_chooses_by_what_is_there_and_continues(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  ran = []

  def run_command(name, command, platforms):
    ran.append((name, platforms))
    if len(ran) == 3:
      raise InputError('stopped')
    if out := next((a[6:] for a in command if a.startswith('--out=')), ''):
      (tmp_path / out).mkdir(parents=True, exist_ok=True)
    if command[0] == 'ttm_jax.evaluate':
      (tmp_path / out / 'metrics.json').write_text('{"clips": 8}')

  monkeypatch.setattr(demo, 'run_command', run_command)
  monkeypatch.setattr(showcase, 'backend', lambda: 'gpu')
  with pytest.raises(InputError, match='stopped'):
    showcase.run(showcase_args(quick=True))
  said = capsys.readouterr().out
  assert said.startswith(
    '128 x 128 pixels, 16 frames, 1 to 4 objects, all motions, on gpu: next to'
  )
  assert '0 of 7 steps are complete in runs/showcase-128-quick.' in said
  showcase.run(showcase_args(quick=True))
  assert '2 of 7 steps are complete' in capsys.readouterr().out
  assert [name for name, _ in ran] == [
    *('Make scenes 1 of 2', 'Make scenes 2 of 2', 'Encode them 1 of 2'),
    *('Encode them 1 of 2', 'Encode them 2 of 2'),
    *('Train stage 1, image to motion', 'Train stage 2, motion to video', 'Evaluate'),
  ]
  assert {platforms for _, platforms in ran} == {''}
  figures = json.loads((tmp_path / 'runs/showcase-128-quick/metrics.json').read_text())
  assert figures['clips'] == 8 and 'all' in figures['seconds']
  monkeypatch.setattr(showcase, 'backend', lambda: 'cpu')
  showcase.run(showcase_args())
  assert '64 x 64 pixels' in capsys.readouterr().out and (tmp_path / 'runs/showcase-64').is_dir()


def test_the_platform_of_the_steps(monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS')
  assert environment()['JAX_PLATFORMS'] == 'cpu' and environment('')['JAX_PLATFORMS'] == ''
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
  assert environment()['JAX_PLATFORMS'] == 'tpu'


def test_what_the_backend_is(monkeypatch):
  assert showcase.backend() == 'cpu'
  monkeypatch.setenv('JAX_PLATFORMS', 'nothing')
  with pytest.raises(InputError, match=r'JAX does not start here .*set JAX_PLATFORMS=cpu'):
    showcase.backend()


@pytest.mark.slow
def test_the_showcase_runs_shrunk_and_runs_again(tmp_path):
  command = 'ttm_jax.showcase', '--quick', '--size=64', f'--workdir={tmp_path}/out'
  first = cli.start(*command).wait(900)
  assert first.code == 0, first.err
  assert (tmp_path / 'out' / 'report.html').stat().st_size > 10_000
  again = cli.start(*command).wait(900)
  assert again.code == 0 and '4 of 7 steps are complete' in again.out
  figures = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
  assert figures['clips'] == 8
