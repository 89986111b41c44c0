"""The command that describes an image: its flags, its outputs, its errors."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import describe, prepare
from tests.helpers.planted import Planted, photo
from ttm_jax import generate, trajectory
from ttm_jax.inference.image_description import Described

STEPS = {
  'describe': '--image=P --segmentation=P --prompt=x --llm=a/b --out=o.safetensors',
  'steps.aesthetic': '--model=a/b --head=h --image=P',
  'steps.caption': '--model=a/b --video=P',
  'steps.category': '--model=a/b --caption=x',
  'steps.detect': '--model=a/b --image=P --name=x',
  'steps.flow': '--weights=w --video=P --out=o.mp4',
  'steps.prompts': '--model=a/b --caption=x',
  'steps.segment': '--model=a/b --video=P --box=1,1,5,5 --out=o',
  'steps.text': '--model=a/b --text=x --out=o.safetensors',
}


@pytest.mark.parametrize('name', STEPS)
def test_every_command_names_the_extra(monkeypatch, tmp_path, capsys, name):
  path = tmp_path / 'mask.png'
  Image.fromarray(np.eye(16, dtype=np.uint8)).save(path)
  monkeypatch.chdir(tmp_path)
  for missing in ('torch', 'transformers', 'torchvision', 'sam2'):
    monkeypatch.setitem(sys.modules, missing, None)
  command = importlib.import_module(f'data_tools.{name}')
  with pytest.raises(SystemExit) as stopped:
    command.main(STEPS[name].replace('P', str(path)).split())
  said = capsys.readouterr().err
  assert stopped.value.code == 2 and "pip install 'ttm_jax[data]'" in said
  assert [p.name for p in tmp_path.iterdir()] == ['mask.png']


def test_flags_are_named_as_those_of_prepare():
  ours = {a for p in (generate.parser(),) for x in p._actions for a in x.option_strings}
  theirs = {a for x in prepare.parser()._actions for a in x.option_strings}
  models = {'--llm', '--detector', '--sam', '--sam_backend', '--threshold', '--device', '--dtype'}
  models |= {'--model_batch', '--offline', '--motion_template', '--objects_template'}
  assert models <= ours & theirs


def test_the_tool_writes_file_and_overlay(monkeypatch, tmp_path, capsys):
  picture, ids = photo()
  Planted(monkeypatch, ids)
  Image.fromarray(picture).save(tmp_path / 'photo.png')
  models = ['--llm=LLM', '--detector=DINO', '--sam=SAM', '--device=cpu', '--offline']
  out = tmp_path / 'deep' / 'found.safetensors'
  describe.main([f'--image={tmp_path}/photo.png', '--prompt=Dogs.', *models, f'--out={out}'])
  said = capsys.readouterr().out.splitlines()
  shown = out.with_name('found_found.png')
  assert said[0] == 'caption: Dogs.' and said[-2:] == [str(out), str(shown)]
  found = Described.load(out)
  assert found.names == {1: 'right dog', 2: 'ball', 3: 'left dog'} and not found.texts
  np.testing.assert_array_equal(
    np.asarray(Image.open(shown)),
    trajectory.overlay(picture[None], found.segmentation[None])[0],
  )


@pytest.mark.parametrize(
  'change, said',
  [
    (['--out=x.npz'], 'give a name that ends in .safetensors'),
    (['--prompt='], 'give --image, the picture, and --prompt'),
    (['--text=clip'], '--text clip: write NAME=MODEL'),
    (['--run=/none'], '/none is neither a latents dataset nor a run'),
    (['--image=/none.png'], '/none.png: there is no such image'),
    (['--image={}/o_found.png'], 'o_found.png would overwrite '),
    (['--segmentation={}/deep/../o_found.png'], 'which --segmentation reads: name another --out'),
    (['--out={}/photo.png/o.safetensors'], '(not a directory): name another --out'),
  ],
)
def test_the_tool_checks_its_options(tmp_path, capsys, change, said):
  picture, _ = photo()
  (tmp_path / 'deep').mkdir()
  for name in ('photo.png', 'o_found.png'):
    Image.fromarray(picture).save(tmp_path / name)
  given = [f'--image={tmp_path}/photo.png', '--prompt=x', f'--out={tmp_path}/o.safetensors']
  with pytest.raises(SystemExit) as stopped:
    describe.main([*given, *(flag.replace('{}', str(tmp_path)) for flag in change)])
  assert stopped.value.code == 2 and said in capsys.readouterr().err
