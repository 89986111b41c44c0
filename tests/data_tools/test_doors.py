"""Commands of the data tools: one error message for a missing package or a number out of range."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import encode
from tests.helpers import cli, video_fixtures
from ttm_jax.errors import InputError, front_door
from ttm_jax.text.words import check_width

ROOT = Path(__file__).parents[2]
# What the extra `data` installs.
EXTRA = ('apache_beam', 'pycocotools', 'scipy', 'torch', 'transformers')
PREPARE = ['--source={videos}', '--out={out}/out', '--clip=6x16x24', '--fps=12', '--offline']
MODEL = '--model={model}'
IMAGE = '--image={tmp}/a.png'
# Each command that needs a package, with arguments that lead to its use.
CASES = {
  'prepare, beam': ('apache_beam', 'prepare', [*PREPARE, '--', '--runner=DataflowRunner']),
  'prepare, pycocotools': ('pycocotools', 'prepare', [*PREPARE, '--kind=sav', '--exclude=none']),
  'prepare, scipy': ('scipy', 'prepare', [*PREPARE, '--kind=sav', '--exclude=none']),
  **{
    f'prepare, {package}, {flag}': (package, 'prepare', [*PREPARE, f'--{flag}={{model}}'])
    for package in ('torch', 'transformers')
    for flag in ('llm', 'captioner', 'detector', 'sam')
  },
  'prepare, workers': ('torch', 'prepare', [*PREPARE, '--workers=2', '--llm={model}']),
  **{
    f'encode, {package}': (
      package,
      'encode',
      [
        *('--clips={clips}', '--out={out}/out', '--codec=linear:4x8x8x4'),
        '--text=clip={model}:77:77',
      ],
    )
    for package in ('torch', 'transformers')
  },
  **{
    f'{step}, {package}': (package, f'steps.{step}', arguments)
    for step, arguments in {
      'aesthetic': [MODEL, IMAGE, '--head={tmp}/head.safetensors'],
      'caption': [MODEL, '--video={videos}/a.mp4'],
      'category': [MODEL, '--caption=A dog.'],
      'detect': [MODEL, IMAGE, '--name=dog'],
      'prompts': [MODEL, '--caption=A dog.'],
      'segment': [MODEL, '--video={videos}/a.mp4', '--box=1,1,9,9', '--out={out}/masks'],
      'text': [MODEL, '--text=A dog.', '--out={out}/x.safetensors'],
    }.items()
    for package in ('torch', 'transformers')
  },
  **{
    f'run_baseline, {package}': (
      package,
      'run_baseline',
      ['--model=svd', '--weights={model}', '--clips={clips}', '--out={out}/x'],
    )
    for package in ('torch', 'transformers')
  },
  'flow, torch': (
    'torch',
    'steps.flow',
    ['--weights={model}/config.json', '--video={videos}/a.mp4', '--out={out}/flow.mp4'],
  ),
  **{
    f'describe, {package}': (
      package,
      'describe',
      [
        *(IMAGE, '--prompt=A dog.', '--llm={model}', '--detector={model}', '--sam={model}'),
        '--out={out}/x.safetensors',
      ],
    )
    for package in ('torch', 'transformers')
  },
}


@pytest.fixture(scope='module')
def places(tmp_path_factory, clips):
  """Inputs of the commands: two videos, an image, clips, and a model folder."""
  from PIL import Image

  tmp = tmp_path_factory.mktemp('doors')
  videos, model = tmp / 'videos', tmp / 'model'
  videos.mkdir()
  model.mkdir()
  for name in 'ab':
    video_fixtures.save(videos / f'{name}.mp4', video_fixtures.levels(12))
  (model / 'config.json').write_text('{"model_type": "t5"}')
  Image.new('RGB', (48, 32)).save(tmp / 'a.png')
  return {'tmp': tmp, 'videos': videos, 'model': model, 'clips': clips}


def hide(package: str) -> None:
  """Make the import of a package fail, as on a machine without it."""
  for name in list(sys.modules):
    # Our own modules are imported again.
    if name.split('.')[0] in (package, 'ttm_jax', 'data_tools'):
      del sys.modules[name]
  sys.modules[package] = None


@pytest.mark.parametrize('case', CASES)
def test_a_missing_package_is_one_sentence(case, places, tmp_path):
  package, module, arguments = CASES[case]
  arguments = [argument.format(**places, out=tmp_path) for argument in arguments]
  ended = cli.run(f'data_tools.{module}', *arguments, before=functools.partial(hide, package))
  assert ended.code == 2, ended.err
  assert 'Traceback' not in ended.err
  said = [line for line in ended.err.split('\n') if line.startswith('error: ')]
  assert len(said) == 1 and package in said[0] and "'ttm_jax[data]'" in said[0], ended.err


@pytest.mark.parametrize(
  'module',
  [
    *('prepare', 'encode', 'import_folder', 'make_scenes', 'show', 'compare_codecs', 'describe'),
    *('sav128', 'vbench', 'point_lists', 'run_baseline'),
  ],
)
def test_help_needs_no_extra(module):
  code = f'import sys; sys.modules.update(dict.fromkeys({EXTRA}))\n' + (
    f'sys.argv = ["x", "--help"]\nimport runpy\n'
    f'runpy.run_module("data_tools.{module}", run_name="__main__", alter_sys=True)'
  )
  ended = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=100
  )
  assert ended.returncode == 0 and 'usage: ' in ended.stdout, ended.stderr


def test_other_import_errors_go_through():
  with pytest.raises(ImportError, match='no_such_module'), front_door():
    __import__('no_such_module')


@pytest.mark.parametrize(
  'option, said',
  [
    ('--words_dim=130', 'word embeddings of width 130: must be a multiple of 4 above 0'),
    ('--words_dim=0', 'word embeddings of width 0'),
    ('--words_dim=-4', 'word embeddings of width -4'),
    ('--words_length=0', '--words_length 0 must be at least 1'),
    ('--words_prompt_length=129', '--words_prompt_length 129: must be at most 128'),
    ('--variants=0', '--variants 0 must be at least 1'),
    ('--max_objects=0', '--max_objects 0 must be at least 1'),
    ('--corrupt=1.5', '--corrupt 1.5: must be from 0 to 1'),
  ],
)
def test_numbers_of_encode_are_checked(option, said, monkeypatch, tmp_path):
  given = ['encode', '--clips=/nowhere', f'--out={tmp_path}/out', '--codec=linear:4x8x8x4', option]
  monkeypatch.setattr(sys, 'argv', given)
  with pytest.raises(InputError) as caught:
    encode.main()
  assert str(caught.value).startswith(said)


def test_widths_of_word_embeddings():
  for dim in (4, 8, 128):
    check_width(dim)
