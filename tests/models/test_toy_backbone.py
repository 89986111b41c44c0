"""A backbone of another package: data, training, sampling, evaluation, export and plan."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, tiny, toy
from ttm_jax.report.results import read_metrics


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
  """Write the configuration files of both stages."""
  folder = tmp_path_factory.mktemp('configs')
  files = {}
  for stage, task, masked in (('stage1', 'image_to_motion', 0), ('stage2', 'motion_to_video', 1)):
    files[stage] = folder / f'toy_{stage}.py'
    files[stage].write_text(toy.CONFIG.format(task=task, masked=masked))
  return files


@pytest.fixture(scope='module')
def latents(clips, configs, tmp_path_factory):
  path = tmp_path_factory.mktemp('toy') / 'latents'
  options = f'--codec={tiny.CODEC}', f'--config={configs["stage2"]}'
  ended = cli.run(*tiny.encode_command(clips, path, *options), before=toy.register)
  assert ended.code == 0, ended.err
  assert 'token grids ((4, 4),)' in ended.out  # Patches of one latent, unlike other presets.
  return path


@pytest.fixture(scope='module')
def runs(latents, configs, tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  for stage, file in configs.items():
    options = f'--config={file}', f'--workdir={root / stage}', f'--config.data.path={latents}'
    ended = cli.run('ttm_jax.train', *options, before=toy.register)
    assert ended.code == 0, ended.err
    losses = [m['train/loss'] for m in read_metrics(root / stage) if 'train/loss' in m]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert (root / stage / 'samples' / 'newest.gif').is_file()
  return root


def arguments(runs):
  return [f'--stage1={runs / "stage1"}', f'--stage2={runs / "stage2"}']


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photo')
  rng = np.random.default_rng(0)
  mask = np.zeros((tiny.SIDE, tiny.SIDE), np.uint8)
  mask[4:9, 3:8] = 1
  Image.fromarray(rng.integers(0, 255, (*mask.shape, 3), np.uint8)).save(folder / 'photo.png')
  Image.fromarray(mask).save(folder / 'mask.png')
  return [
    f'--image={folder / "photo.png"}',
    f'--segmentation={folder / "mask.png"}',
    '--prompt=A square moves to the left.',
  ]


def test_it_trains_and_resumes(runs, configs, latents):
  options = f'--config={configs["stage2"]}', f'--workdir={runs / "stage2"}'
  ended = cli.run(
    'ttm_jax.train',
    *options,
    f'--config.data.path={latents}',
    '--config.train.steps=4',
    before=toy.register,
  )
  assert ended.code == 0, ended.err
  steps = [m['step'] for m in read_metrics(runs / 'stage2') if 'train/loss' in m]
  assert steps == [1, 2, 3, 4]


def test_it_generates(runs, photo, tmp_path):
  out = tmp_path / 'out.mp4'
  ended = cli.run('ttm_jax.generate', *arguments(runs), *photo, f'--out={out}', before=toy.register)
  assert ended.code == 0, ended.err
  assert out.is_file() and len(list((tmp_path / 'out_trajectory').glob('*.png'))) == tiny.FRAMES


def test_it_is_evaluated(runs, clips, tmp_path):
  ended = cli.run(
    'ttm_jax.evaluate',
    *arguments(runs),
    f'--clips={clips}',
    '--count=2',
    f'--out={tmp_path}',
    before=toy.register,
  )
  assert ended.code == 0, ended.err
  assert json.loads((tmp_path / 'metrics.json').read_text())


def test_its_export_computes_the_same(runs, photo, tmp_path):
  pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  folder = tmp_path / 'model'
  ended = cli.run(
    'ttm_jax.export', *arguments(runs), f'--out={folder}', '--dtype=fp32', before=toy.register
  )
  assert ended.code == 0, ended.err
  assert (folder / 'ttm_toy_torch.py').is_file() and (folder / 'ttm_masked_attention.py').is_file()
  ended = cli.run(
    'ttm_jax.pytorch.generate',
    folder,
    *photo,
    f'--out={tmp_path / "torch.mp4"}',
    before=toy.register_torch,
  )
  assert ended.code == 0, ended.err
  assert (tmp_path / 'torch.mp4').is_file()


def test_a_run_starts_from_its_export(runs, configs, latents, tmp_path):
  folder = tmp_path / 'model'
  ended = cli.run(
    'ttm_jax.export', *arguments(runs), f'--out={folder}', '--dtype=fp32', before=toy.register
  )
  assert ended.code == 0, ended.err
  ended = cli.run(
    'ttm_jax.train',
    f'--config={configs["stage2"]}',
    f'--workdir={tmp_path / "run"}',
    f'--config.data.path={latents}',
    f'--config.init_from=pretrained:{folder}',
    before=toy.register,
  )
  assert ended.code == 0, ended.err


def test_it_is_planned(configs, tmp_path):
  file = tmp_path / 'plan.json'
  ended = cli.run(
    'ttm_jax.plan',
    f'--config={configs["stage2"]}',
    '--topology=h100x1',
    f'--json={file}',
    before=toy.register,
  )
  assert ended.code == 0, ended.out + ended.err
  assert json.loads(file.read_text())


def test_no_module_but_its_own_names_a_backbone():
  root = tiny.ROOT / 'ttm_jax'
  own = ('models/dit/', 'models/unet/', 'pytorch/dit.py', 'pytorch/unet.py')
  registries = ('presets.py', 'preset_names.py', 'pytorch/loading.py')
  found = []
  for path in sorted([*root.rglob('*.py'), *(tiny.ROOT / 'data_tools').rglob('*.py')]):
    name = str(path.relative_to(root if path.is_relative_to(root) else tiny.ROOT))
    if name.startswith(own) or name in registries:
      continue
    code = re.sub(r'""".*?"""|#[^\n]*', '', path.read_text(), flags=re.DOTALL)
    found += [f'{name}: {m}' for m in re.findall(r'\b(?:dit|unet|DiT\w*|UNet\w*)\b', code)]
  assert not found, found
