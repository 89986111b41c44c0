"""Runs exported to a folder: its contents, its integrity, and the conversion back."""

import ast
import dataclasses
import hashlib
import itertools
import json
import re
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from tests.helpers import cli, exported, tiny
from ttm_jax.checksums import write_sums
from ttm_jax.errors import InputError
from ttm_jax.exported_folder import is_exported, load, read_codec, read_network
from ttm_jax.exporting.folder import export
from ttm_jax.exporting.stages import check_together
from ttm_jax.models.dit.model import DiTConfig
from ttm_jax.models.unet.model import UNetConfig
from ttm_jax.settings import from_config
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.runs import read_config
from ttm_jax.training.sources import read_parameters

WEIGHTS = 'diffusion_pytorch_model.safetensors'


DTYPES = {'dit': 'bf16', 'unet': 'fp32'}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """For each preset, both runs and the folder that one `ttm_jax.export` made of them."""
  found = {}

  def make(preset):
    if preset not in found:
      path = tmp_path_factory.mktemp(preset)
      one, two = exported.make_runs(path, preset)
      out = path / 'folder'
      options = f'--stage1={one}', f'--stage2={two}', f'--dtype={DTYPES[preset]}', f'--out={out}'
      ended = cli.run('ttm_jax.export', *options)
      assert ended.code == 0, ended.err
      assert ended.out == f'{out}/README.md says how to use it\n'
      found[preset] = (one, two), out
    return found[preset]

  return make


@pytest.fixture
def dit_pair(made):
  return made('dit')[0]


@pytest.fixture
def dit_folder(made):
  return made('dit')[1]


def content(directory: Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def test_the_folder_is_that_of_a_diffusers_pipeline(dit_folder):
  index = json.loads((dit_folder / 'model_index.json').read_text())
  assert index['_class_name'] == ['pipeline', 'TTMPipeline']
  parts = {name: value for name, value in index.items() if isinstance(value, list)}
  del parts['_class_name']
  for part, (pointer, kind) in parts.items():
    assert f'import {kind}' in (dit_folder / part / f'{pointer}.py').read_text()
    config = 'scheduler_config.json' if 'scheduler' in part else 'config.json'
    values = json.loads((dit_folder / part / config).read_text())
    assert values['_class_name'] == kind
  assert index['video']['latents'] == [tiny.CHANNELS, *tiny.LATENTS]
  assert index['stages']['stage2']['text_scale'] == 2.0
  assert {p.name for p in dit_folder.iterdir()} >= {'README.md', 'pipeline.py', 'training.json'}


def test_the_code_needs_neither_jax_nor_this_package(dit_folder):
  for path in dit_folder.rglob('*.py'):
    text = path.read_text()
    compile(text, path.name, 'exec')
    for line in text.splitlines():
      if line.lstrip().startswith(('from ', 'import ')):
        assert not {'jax', 'flax', 'ttm_jax'} & set(line.replace('.', ' ').split()), line


def test_checksums_are_those_that_coreutils_would_find(dit_folder):
  lines = dict(
    reversed(line.split('  ')) for line in (dit_folder / 'SHA256SUMS').read_text().splitlines()
  )
  found = {
    name: hashlib.sha256(data).hexdigest()
    for name, data in content(dit_folder).items()
    if name != 'SHA256SUMS'
  }
  assert lines == found


def test_the_averaged_weights_are_exported(dit_folder, dit_pair):
  ema = read_parameters(dit_pair[0])
  with safe_open(dit_folder / 'stage1' / WEIGHTS, 'np') as file:
    assert file.get_slice('embed.weight').get_dtype() == 'BF16'
    got = np.asarray(file.get_tensor('embed.weight'), np.float32)
  np.testing.assert_allclose(got, ema['embed']['kernel'].T, atol=2**-9)


@pytest.mark.parametrize('preset', ['dit', pytest.param('unet', marks=pytest.mark.slow)])
def test_export_import_export_gives_the_same_bytes(preset, made, tmp_path):
  runs, first = made(preset)
  again = []
  for number, run in enumerate(runs, 1):
    network = read_network(first / f'stage{number}')
    where = exported.context(preset, made=read_codec(first))
    path = tmp_path / f'stage{number}'
    params = jax.tree.map(np.asarray, network.params)
    again.append(exported.save_run(path, read_config(run), where, params))
  export(*again, tmp_path / 'second', DTYPES[preset])
  assert content(first) == content(tmp_path / 'second')


def test_a_transformer_starts_from_an_exported_one(made, latents):
  runs, out = made('dit')
  assert is_exported(str(out)) and not is_exported(str(out.parent))
  for number, run in enumerate(runs):
    objective = Denoising(exported.config('dit', number, data__path=str(latents)))
    source = jax.tree.map(np.asarray, objective.source(f'pretrained:{out}').params)
    rounded = jax.tree.map(
      lambda x: np.asarray(x.astype(ml_dtypes.bfloat16), np.float32), read_parameters(run)
    )
    jax.tree.map(np.testing.assert_array_equal, source, rounded)
    brought = objective.transfer(source, jax.tree.map(np.zeros_like, source))
    jax.tree.map(np.testing.assert_array_equal, brought, source)


@pytest.mark.slow
def test_a_unet_starts_from_an_exported_one(made, unet_latents):
  (_, run), out = made('unet')
  objective = Denoising(exported.config('unet', exported.STAGE2, data__path=str(unet_latents)))
  source = jax.tree.map(np.asarray, objective.source(f'pretrained:{out}').params)
  jax.tree.map(np.testing.assert_array_equal, source, read_parameters(run))
  brought = objective.transfer(source, jax.tree.map(np.zeros_like, source))
  jax.tree.map(np.testing.assert_array_equal, brought, source)


def test_the_other_stage_can_be_named(dit_folder, dit_pair):
  config = sizes_of(dit_pair[1])
  one = load(f'{dit_folder}/stage1', config)
  assert 'masked_blocks' not in one and 'masked_blocks' in load(str(dit_folder), config)


def sizes_of(run):
  return from_config(DiTConfig, read_config(run).model, 'model')


def test_all_files_can_be_read_by_those_who_may_read_the_folder(dit_folder):
  modes = {path.stat().st_mode for path in dit_folder.rglob('*') if path.is_file()}
  assert len(modes) == 1


def test_large_weights_are_cut_into_files(dit_pair, dit_folder, tmp_path):
  export(*dit_pair, tmp_path / 'cut', shard=10_000)
  parts = sorted((tmp_path / 'cut' / 'stage2').glob('*.safetensors'))
  assert len(parts) > 3
  index = json.loads((tmp_path / 'cut' / 'stage2' / f'{WEIGHTS}.index.json').read_text())
  assert set(index['weight_map'].values()) == {part.name for part in parts}
  whole = safetensors.numpy.load_file(dit_folder / 'stage2' / WEIGHTS)
  assert index['metadata']['total_size'] == sum(x.nbytes for x in whole.values())
  for name, part in index['weight_map'].items():
    with safe_open(tmp_path / 'cut' / 'stage2' / part, 'np') as file:
      np.testing.assert_array_equal(file.get_tensor(name), whole[name])
  jax.tree.map(
    np.testing.assert_array_equal,
    read_network(tmp_path / 'cut' / 'stage2').params,
    read_network(dit_folder / 'stage2').params,
  )


def test_arrays_are_read_when_they_are_asked_for(dit_pair):
  step = Checkpoints(dit_pair[1] / 'checkpoints', read_only=True)
  stored = step.stored_ema(step.latest())
  ema = read_parameters(dit_pair[1])
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), stored, ema)
  assert jax.tree.map(lambda x: x.shape, stored) == jax.tree.map(lambda x: x.shape, ema)


def test_a_damaged_checkpoint_is_not_exported(dit_pair, tmp_path, monkeypatch):
  sums = Checkpoints._sums
  monkeypatch.setattr(Checkpoints, '_sums', lambda self, step: {'ema': sums(self, step)['ema'] ^ 1})
  refused('is damaged: ema is not what was saved', *dit_pair, tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_the_card_says_what_a_user_needs(dit_folder, dit_pair):
  card = (dit_folder / 'README.md').read_text()
  for said in (
    'library_name: diffusers',
    'DiffusionPipeline.from_pretrained',
    'TTMTransformer',
    'Trained from scratch',
    f'{tiny.FRAMES} frames of {tiny.SIDE} x {tiny.SIDE}',
    'Objects 1 to 3',
  ):
    assert said in card
  assert str(dit_pair[0].parent) not in ''.join(
    data.decode(errors='ignore') for data in content(dit_folder).values()
  )


def packages_of(paths):
  """Return the packages of the index that Python files import."""
  imported = set()
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        imported |= {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and not node.level:
        imported.add(str(node.module).split('.')[0])
  imported -= {*sys.stdlib_module_names, 'diffusers_modules', 'ttm'}
  return {{'PIL': 'pillow'}.get(name, name) for name in imported}


def test_the_card_installs_what_the_code_imports(dit_folder):
  named = re.findall(r'^from \.(\w+) import', (dit_folder / 'pipeline.py').read_text(), re.M)
  paths = [dit_folder / 'pipeline.py', *(dit_folder / f'{name}.py' for name in named)]
  packages = packages_of([*paths, *dit_folder.glob('*/*.py')])
  assert packages >= {'torch', 'diffusers', 'pillow'}
  # diffusers needs accelerate for `enable_model_cpu_offload`.
  assert exported.card_packages(dit_folder) == packages | {'accelerate'}


def test_the_requirements_are_what_the_studio_imports(dit_folder):
  listed = set((dit_folder / 'requirements.txt').read_text().split())
  # Gradio brings its web framework.
  packages = packages_of(dit_folder.rglob('*.py')) - {'fastapi', 'starlette', 'uvicorn'}
  assert listed == packages | {'accelerate'}


def test_the_card_names_the_base_weights(dit_pair, tmp_path):
  one, two = (shutil.copytree(run, tmp_path / run.name) for run in dit_pair)
  settings = json.loads((one / 'config.json').read_text())
  name = 'stable-diffusion-v1-5/stable-diffusion-v1-5'
  settings['init_from'] = f'pretrained:{name}, someone/adapter'
  settings['init_cache'] = str(tmp_path / 'cache')
  (one / 'config.json').write_text(json.dumps(settings))
  other = json.loads((two / 'config.json').read_text())
  other['init_from'] = str(one)
  (two / 'config.json').write_text(json.dumps(other))
  (one / 'samples').mkdir()
  (one / 'samples' / 'newest.gif').write_bytes(b'animation')
  export(one, two, tmp_path / 'folder', licence='openrail')
  card = (tmp_path / 'folder' / 'README.md').read_text()
  assert f'- {name}: creativeml-openrail-m' in card and 'someone/adapter: licence not known' in card
  assert 'license: openrail' in card and 'base_model:\n- stable-diffusion-v1-5' in card
  assert '![Samples](samples/stage1.gif)' in card
  assert str(tmp_path) not in card + (tmp_path / 'folder' / 'training.json').read_text()


def refused(message, *arguments, **options):
  with pytest.raises(InputError, match=message):
    export(*arguments, **options)


def test_runs_that_cannot_be_exported(dit_pair, tmp_path):
  one, two = dit_pair
  out = tmp_path / 'out'
  refused("was trained for 'image_to_motion', 'motion_to_video' is needed", one, one, out)
  refused("was trained for 'motion_to_video', 'image_to_motion' is needed", two, two, out)
  refused('is not a run directory', one, tmp_path, out)
  empty = shutil.copytree(two, tmp_path / 'empty')
  shutil.rmtree(empty / 'checkpoints')
  refused('has no checkpoint yet', one, empty, out)
  other = shutil.copytree(two, tmp_path / 'other')
  exported.context('dit', made=exported.codec('dit', 1)).save(other)
  refused('have different codecs', one, other, out)
  shown = tmp_path / 'none.gif'
  refused('there is no such file', one, two, out, samples=[shown])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['empty', 'other']


def test_presets_may_differ_where_the_codecs_agree(dit_pair, tmp_path, monkeypatch):
  one, _ = dit_pair
  # A U-Net whose latents halve once is enough; the preset itself halves them three times.
  monkeypatch.setattr(UNetConfig, 'widths', (8, 16))
  settings = exported.config('unet', exported.STAGE2)
  where = exported.context('unet', made=exported.codec('dit'))
  params = exported.parameters(settings, where)
  two = exported.save_run(tmp_path / 'unet', settings, where, params)
  export(one, two, tmp_path / 'out')
  index = json.loads((tmp_path / 'out' / 'model_index.json').read_text())
  assert (index['stage1'][1], index['stage2'][1]) == ('TTMTransformer', 'TTMUNet')
  stages = [
    SimpleNamespace(run=preset, config=SimpleNamespace(preset=preset), context=where)
    for preset, where in (('dit', where), ('unet', exported.context('unet')))
  ]
  with pytest.raises(InputError, match=r'different codecs and presets \(dit, unet\)'):
    check_together(stages)


def test_a_folder_that_is_not_empty_is_left_alone(dit_pair, tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'mine').write_text('mine')
  refused('is not empty', *dit_pair, out)
  assert content(out) == {'mine': b'mine'}
  refused('is not a folder', *dit_pair, out / 'mine')
  (out / 'mine').unlink()
  export(*dit_pair, out)
  assert (out / 'SHA256SUMS').is_file()


def test_a_full_disk_leaves_nothing(dit_pair, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=10**6))
    refused('0.00 GB are free', *dit_pair, tmp_path / 'out')

  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
  try:
    refused('too large.*nothing was left', *dit_pair, tmp_path / 'out')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_is_replaced(dit_pair, tmp_path):
  partial = tmp_path / f'.out.{"0" * 32}.partial'
  partial.mkdir()
  (partial / 'half').write_text('half')
  export(*dit_pair, tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == ['out']
  assert not (tmp_path / 'out' / 'half').exists()


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda data: data[: len(data) // 2], 'not a complete safetensors file'),
    (lambda data: data.replace(b'head.bias', b'head.bios'), 'tensor head.bias is missing'),
    (lambda data: data.replace(b'"BF16"', b'"BOOL"', 1), 'not a complete safetensors file|is BOOL'),
  ],
)
def test_damaged_weights_are_refused_on_the_way_back(dit_folder, tmp_path, change, message):
  copy = shutil.copytree(dit_folder, tmp_path / 'copy')
  path = copy / 'stage1' / WEIGHTS
  path.write_bytes(change(path.read_bytes()))
  write_sums(copy)
  with pytest.raises(InputError, match=message):
    read_network(copy / 'stage1')


def test_changed_files_are_refused_on_the_way_back(dit_folder, tmp_path):
  copy = shutil.copytree(dit_folder, tmp_path / 'copy')
  config = read_network(copy / 'stage2').config
  for name, component in itertools.product(('stage2', 'codec'), (WEIGHTS, 'config.json')):
    path = copy / name / component
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    read = read_codec if name == 'codec' else lambda folder: load(str(folder), config)
    with pytest.raises(InputError, match=rf'{name}/{component} is not as it was exported|not JSON'):
      read(copy)
    shutil.copy(dit_folder / name / component, path)
  # Another component is not read.
  (copy / 'stage1' / WEIGHTS).write_bytes(b'')
  load(str(copy), config)
  (copy / 'SHA256SUMS').unlink()
  with pytest.raises(InputError, match='has no SHA256SUMS'):
    load(f'{copy}/stage2', config)
  # A network alone, such as one that diffusers saved, has no list.
  load(str(shutil.copytree(dit_folder / 'stage2', tmp_path / 'alone')), config)


def test_what_is_not_exported_is_refused(dit_folder, tmp_path):
  config = read_network(dit_folder / 'stage1').config
  for source, message in (
    (str(tmp_path), 'holds no network of an exported folder: no config.json'),
    (f'{dit_folder}/codec', 'holds no network of an exported folder: TTMLinearCodec'),
  ):
    with pytest.raises(InputError, match=message):
      load(source, config)
  with pytest.raises(InputError, match=r'layers is 2 there, 3 is needed'):
    load(str(dit_folder), dataclasses.replace(config, layers=3))
  with pytest.raises(InputError, match='no codec of an exported folder'):
    read_codec(tmp_path)


def test_other_texts_are_refused(dit_pair, latents, tmp_path):
  settings = exported.config('dit', exported.STAGE1)
  where = exported.context('dit', encoders={'words': TextEncoderSpec(8, 16, 8)})
  one = exported.save_run(tmp_path / 'run', settings, where, exported.parameters(settings, where))
  export(one, dit_pair[1], tmp_path / 'folder')
  settings.data.path = str(latents)
  with pytest.raises(InputError, match='reads other texts: parameter'):
    Denoising(settings).source(f'pretrained:{tmp_path}/folder')


def test_text_encoders_are_named_or_brought_along(dit_pair, tmp_path):
  settings = exported.config('dit', exported.STAGE2)
  empty = np.zeros((1, 5, 12), np.float16)

  def clip(texts, length):
    return empty[:, :length].repeat(len(texts), 0), np.full(len(texts), length, np.int32)

  where = exported.context('dit', {'clip': TextEncoderSpec(12, 5, 5)}, {'clip': clip})
  two = exported.save_run(tmp_path / 'run', settings, where, exported.parameters(settings, where))
  refused(r"reads texts by 'clip'.*--text clip=MODEL", dit_pair[0], two, tmp_path / 'out')
  export(dit_pair[0], two, tmp_path / 'hub', models={'clip': 'owner/clip'})
  model = tmp_path / 'clip'
  refused('which is not here', dit_pair[0], two, tmp_path / 'out', models={'clip': str(model)})
  model.mkdir()
  (model / 'config.json').write_text('{}')
  (model / 'pytorch_model.bin').write_bytes(b'pickle')
  export(dit_pair[0], two, tmp_path / 'here', models={'clip': str(model)})

  def named(out):
    return json.loads((out / 'text_encoder' / 'config.json').read_text())['models']

  assert named(tmp_path / 'hub') == {'clip': 'owner/clip'}
  assert named(tmp_path / 'here') == {'clip': './clip'}
  assert [p.name for p in (tmp_path / 'here' / 'text_encoder' / 'clip').iterdir()] == [
    'config.json'
  ]


def test_options_that_are_wrong(dit_pair, tmp_path):
  runs = f'--stage1={dit_pair[0]}', f'--stage2={dit_pair[1]}', f'--out={tmp_path}/out'
  for option, message in (
    ('--text=clip', 'error: --text clip: write NAME=MODEL'),
    ('--dtype=fp16', "invalid choice: 'fp16'"),
  ):
    ended = cli.run('ttm_jax.export', *runs, option)
    assert ended.code == 2 and message in ended.err
