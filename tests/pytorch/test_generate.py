"""The command of an exported folder against that of two runs."""

import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, exported, tiny
from tests.helpers.planted import Planted
from ttm_jax import generate as jax_generate
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described, Embeddings
from ttm_jax.inference.request import fit

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch import generate  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  """Return the arguments of the command, without the folder and the output."""
  return exported.flags(tmp_path_factory.mktemp('picture'))


def test_the_flags_are_those_of_jax():
  """Except for networks, sizes (a folder has one), files of requests, compiled
  programs, solvers, savings, and CPU offload."""

  def flags(parser):
    return {option: a.default for a in parser._actions for option in a.option_strings}

  ours, theirs = flags(generate.parser()), flags(jax_generate.parser())
  # The folder decides these.
  decided = {'--stage1', '--stage2', '--size', '--frames'}
  of_jax = {'--requests', '--batch', '--compilation_cache'}
  of_jax |= {'--mesh', '--solver', '--guidance_interval', '--guidance_every', '--reuse'}
  assert set(theirs) - set(ours) == decided | of_jax
  assert set(ours) - set(theirs) == {'--offload'}
  assert all(theirs[name] == default for name, default in ours.items() if name in theirs)


def test_the_command_writes_what_that_of_jax_does(folders, command, tmp_path, monkeypatch):
  folder = folders['dit'][1]
  ended = cli.run('ttm_jax.pytorch.generate', folder, *command, f'--out={tmp_path}/a/out.mp4')
  assert ended.code == 0, ended.err
  names = ['out.mp4', 'out_trajectory/', 'out_trajectory.mp4', 'out_side_by_side.mp4']
  assert ended.out.split() == [f'{tmp_path}/a/{name}' for name in names]
  assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == sorted(n.strip('/') for n in names)
  pipe = exported.pipe(folder)
  seeded = torch.Generator().manual_seed(0)
  output = pipe(**exported.arguments(), generator=seeded, num_inference_steps=2)
  ids = trajectory.read_folder(tmp_path / 'a' / 'out_trajectory')
  np.testing.assert_array_equal(ids, output.trajectory[0])
  mine = exported.moved(exported.request().mask)
  trajectory.write_folder(tmp_path / 'mine', mine)
  options = f'--trajectory={tmp_path}/mine', f'--out={tmp_path}/b.mp4'
  monkeypatch.setattr(sys, 'argv', ['generate', str(folder), *command, *options])
  generate.main()
  np.testing.assert_array_equal(trajectory.read_folder(tmp_path / 'b_trajectory'), mine)


def test_the_command_takes_a_described_picture(folders, command, tmp_path, monkeypatch, capsys):
  def ids(name, *options):
    argv = ['generate', str(folders['dit'][1]), *options, '--steps=2', f'--out={tmp_path}/{name}']
    monkeypatch.setattr(sys, 'argv', argv)
    generate.main()
    return trajectory.read_folder(tmp_path / f'{name[:-4]}_trajectory')

  request, path = exported.request(), tmp_path / 'photo.safetensors'
  texts = {'clip': Embeddings('clip', 'CLIP', {('A text.', 4): (np.ones((4, 2), np.float16), 2)})}
  said = request.caption, request.motion, {1: 'circle', 2: 'star'}, request.prompts
  Described(request.picture, request.mask, *said, texts).save(path)
  wanted = ids('a.mp4', *command)
  np.testing.assert_array_equal(ids('b.mp4', f'--described={path}'), wanted)
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()
  assert f'motion: {request.motion}' in capsys.readouterr().out
  # Flags override the file.
  said = 'Other.', 'Nothing moves.', {}, {1: 'no circle'}
  Described(255 - request.picture, request.mask[::-1], *said).save(path)
  np.testing.assert_array_equal(ids('c.mp4', f'--described={path}', *command), wanted)
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'c.mp4').read_bytes()
  ids('d.mp4', f'--described={path}')
  assert (tmp_path / 'a.mp4').read_bytes() != (tmp_path / 'd.mp4').read_bytes()


def test_the_command_finds_what_is_not_given(folders, tmp_path, monkeypatch, capsys):
  """Same steps as ttm_jax.generate: position words distinguish the dogs."""
  ids = np.zeros((20, 30), np.uint8)
  ids[4:12, 2:10], ids[6:10, 20:24], ids[14:18, 12:16] = 1, 2, 3
  picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
  planted = Planted(monkeypatch, ids)
  Image.fromarray(picture).save(tmp_path / 'photo.png')
  models = ['--llm=LLM', '--detector=DINO', '--sam=SAM', '--device=cpu', '--offline']
  given = [f'--image={tmp_path}/photo.png', '--prompt=Dogs.', *models, f'--out={tmp_path}/out.mp4']
  argv = ['generate', str(folders['dit'][1]), *given]
  monkeypatch.setattr(sys, 'argv', [*argv, '--steps=3'])
  with pytest.raises(InputError, match='must be even'):
    generate.main()
  # The objects are shown before anything is generated.
  said = capsys.readouterr().out
  assert 'motion: The dogs run.' in said and 'object 3, left dog: a brown dog' in said
  found = np.array([0, 3, 1, 2], np.uint8)[ids]  # Right dog, ball, left dog.
  shown = np.asarray(Image.open(tmp_path / 'out_found.png'))
  np.testing.assert_array_equal(shown, trajectory.overlay(picture[None], found[None])[0])
  assert not (tmp_path / 'out.mp4').exists() and planted.asked
  monkeypatch.setattr(sys, 'argv', [*argv, '--steps=2'])
  generate.main()
  first = trajectory.read_folder(tmp_path / 'out_trajectory')[0]
  np.testing.assert_array_equal(first, fit(found, tiny.SIDE, tiny.SIDE, nearest=True))


def test_the_language_model_names_no_more_than_the_folder_knows(folders):
  assert generate.max_objects(folders['dit'][1]) == 3


@pytest.mark.parametrize(
  'changes, message',
  [
    (['--out=out.gif'], '--out out.gif: give a name that ends in .mp4'),
    (['--object=1: twice'], '--object gives object 1 two prompts'),
    (['--object=one'], '--object "one": write the id in the mask'),
    (['--image=none.png'], 'none.png'),
    (['--image='], 'give --image PICTURE, or --described FILE'),
    (['--segmentation='], 'give --segmentation MASK.png; or --llm, --detector and --sam'),
    (['--described=x', '--sam=y'], '--described and models exclude each other'),
    (['--described=/none'], '/none: there is no such file; make it with python -m data_tools'),
    (['--dtype=int8'], '--dtype int8: choose auto, float32, bfloat16, float16'),
    (['--text=clip'], '--text clip: write NAME=MODEL'),
    (['--detector=y', '--segmentation='], 'give --segmentation MASK.png, or --detector and --sam'),
    (['--steps=3'], 'the number of steps must be even'),
  ],
)
def test_the_command_refuses_in_a_sentence(folders, command, changes, message, monkeypatch):
  argv = ['generate', str(folders['dit'][1]), *command, '--out=out.mp4', *changes]
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(InputError, match=message):
    generate.main()
