"""Every command under a folder whose name has a meaning for shells, globs and formats."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import compare_codecs, describe, encode, import_folder, make_scenes, prepare, show
from tests.helpers import cli, tiny, tiny_models
from tests.helpers.masked_video import DOG, label_maps, make_source
from tests.helpers.planted import Planted
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.data.latents import Latents
from ttm_jax.inference.image_description import Described
from ttm_jax.media import video_reader

NAME = 'proj [v1] *?{a}~ ü'
TRAIN = {
  'train__steps': 4,
  'train__checkpoint_every': 2,
  'train__evaluate_every': 2,
  'train__sample_every': 4,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp('odd') / NAME
  folder.mkdir()
  # As a glob pattern, one name matches the other: code that globs finds the wrong one.
  (folder.parent / 'proj v xxa~ ü').mkdir()
  return folder


@pytest.fixture(scope='module')
def scenes(root):
  return made(root / 'scenes', make_scenes, *tiny.scenes_command(root / 'scenes')[1:])


@pytest.fixture(scope='module')
def encoded(root, scenes):
  command = tiny.encode_command(scenes, root / 'latents', f'--codec={tiny.CODEC}')
  return made(root / 'latents', encode, *command[1:])


@pytest.fixture(scope='module')
def runs(root, encoded):
  """Runs of both stages, each resumed once from its checkpoint."""
  for stage in ('stage1', 'stage2'):
    for steps in (2, 4):
      changes = TRAIN | {'train__steps': steps}
      run(*tiny.train_command(f'demo_{stage}', root / 'runs' / stage, encoded, **changes))
    lines = (root / 'runs' / stage / 'metrics.jsonl').read_text().splitlines()
    steps = [json.loads(line)['step'] for line in lines if 'train/loss' in line]
    assert steps == [1, 2, 3, 4]
  return [f'--{stage}={root}/runs/{stage}' for stage in ('stage1', 'stage2')]


@pytest.fixture(scope='module')
def asked(root, scenes):
  """Return an image with masks and texts as arguments of `generate`."""
  clip = Clips(scenes, 'validation')[0]
  Image.fromarray(clip.video[0]).save(root / 'photo.png')
  trajectory.write_folder(root / 'masks', clip.ids[:1])
  said = [f'--object={i}: {prompt}' for i, prompt in enumerate(clip.prompts, 1)]
  return [
    f'--image={root}/photo.png',
    f'--segmentation={root}/masks/00000.png',
    f'--prompt={clip.caption}',
    f'--motion={clip.motion}',
    *said,
  ]


@pytest.fixture(scope='module')
def folder(root, runs):
  run('ttm_jax.export', *runs, f'--out={root}/exported', '--dtype=fp32')
  return root / 'exported'


def made(path, door, *arguments):
  """Run a command in this process; return its output."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', [door.__name__, *map(str, arguments)])
    door.main()
  return path


def run(module, *arguments):
  ended = cli.run(module, *arguments)
  assert ended.code == 0, ended.err
  return ended.out


def check_results(root, name):
  """Check the files that `generate` writes: video, trajectory, and both side by side."""
  video, _ = video_reader.read_video(root / f'{name}.mp4')
  assert video.shape == (tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3)
  ids = [np.asarray(Image.open(root / f'{name}_trajectory' / f'{t:05d}.png')) for t in range(4)]
  assert np.shape(ids) == (tiny.FRAMES, tiny.SIDE, tiny.SIDE)
  assert (root / f'{name}_side_by_side.mp4').is_file()


def test_make_scenes(scenes):
  assert len(Clips(scenes, 'train')) == tiny.TRAIN_CLIPS
  assert len(list(Clips(scenes, 'validation'))) == tiny.VALIDATION_CLIPS


def test_encode(encoded):
  source = Latents(encoded, 'train')
  assert len([source[i] for i in range(len(source))]) == tiny.TRAIN_CLIPS


def test_encode_by_a_text_encoder(root, scenes):
  model = tiny_models.clip_text(root / 'clip')
  options = [f'--text=clip={model}:8:4', '--text_device=cpu', '--offline']
  command = tiny.encode_command(scenes, root / 'texts', f'--codec={tiny.CODEC}', *options)
  made(root / 'texts', encode, *command[1:])
  assert Latents(root / 'texts', 'train')[0]['text.clip.caption'].shape[0] == 8


def test_show(root, scenes, encoded, capsys):
  for place in (scenes, encoded, *scenes.glob('*train*'), *encoded.glob('*train*')):
    show.main([str(place), '1', f'--out={root}/shown.mp4'])
    assert capsys.readouterr().out.endswith(f'{NAME}/shown.mp4\n')


def test_show_in_the_current_folder(root, scenes, monkeypatch, capsys):
  monkeypatch.chdir(root)
  show.main(['scenes', '1'])
  (written,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith('.mp4')]
  assert (root / written).is_file()


def test_compare_codecs(root, scenes, encoded, capsys):
  options = [f'--codec={encoded}', f'--codec={encoded}/context/codec', f'--codec={tiny.CODEC}']
  made(root, compare_codecs, f'--clips={scenes}', '--count=2', *options)
  assert 'mask IoU' in capsys.readouterr().out


def sources(root, name):
  make_source(root / name / 'a' / 'dog', label_maps())
  (root / name / 'captions.json').write_text(json.dumps({'a/dog': DOG}))
  return [f'--source={root}/{name}', f'--captions={root}/{name}/captions.json']


def test_import_folder(root):
  given = sources(root, 'films')
  options = ['--frames=4', '--stride=2', '--fps=4', '--size=12']
  made(root, import_folder, *given, *options, f'--out={root}/imported')
  assert [c.key for c in Clips(root / 'imported', 'train')] == ['a/dog/00000', 'a/dog/00006']


def test_prepare(root):
  given = sources(root, 'more films')
  options = ['--kind=vos', '--clip=4x12x12', '--stride=2', '--fps=4', f'--out={root}/prepared']
  made(root, prepare, *given, *options)
  assert [c.key for c in Clips(root / 'prepared', 'train')] == ['a/dog/00000', 'a/dog/00006']
  assert (root / 'prepared' / 'report.html').is_file()
  made(root, prepare, *given, *options)  # The job is finished already.


def test_describe(root, monkeypatch):
  ids = np.zeros((20, 30), np.uint8)
  ids[4:12, 2:10], ids[6:10, 20:24], ids[14:18, 12:16] = 1, 2, 3
  Planted(monkeypatch, ids)
  Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / 'dogs.png')
  models = ['--llm=LLM', '--detector=DINO', '--sam=SAM', '--device=cpu', '--offline']
  out = root / 'dogs.safetensors'
  describe.main([f'--image={root}/dogs.png', '--prompt=Two dogs.', f'--out={out}', *models])
  assert Described.load(out).names == {1: 'right dog', 2: 'ball', 3: 'left dog'}


@pytest.mark.slow
def test_train_a_codec(root, scenes):
  workdir = root / 'runs' / 'codec'
  run(*tiny.train_command('scenes_codec', workdir, scenes, train__steps=2))
  assert (workdir / 'codec' / 'codec.safetensors').is_file()


@pytest.mark.slow
def test_train_generate(root, runs, asked):
  run('ttm_jax.generate', *runs, *asked, f'--out={root}/out/film.mp4')
  check_results(root / 'out', 'film')
  run(
    'ttm_jax.generate',
    *(flag for flag in runs if 'stage2' in flag),
    *asked,
    f'--trajectory={root}/out/film_trajectory',
    f'--out={root}/again/film.mp4',
  )
  assert (root / 'again' / 'film.mp4').is_file()


@pytest.mark.slow
def test_evaluate(root, runs, scenes):
  run('ttm_jax.evaluate', *runs, f'--clips={scenes}', '--count=2', f'--out={root}/report')
  assert json.loads((root / 'report' / 'metrics.json').read_text())['clips'] == 2


@pytest.mark.slow
def test_export(root, folder, asked):
  run('ttm_jax.pytorch.generate', folder, *asked, '--device=cpu', f'--out={root}/torch/film.mp4')
  check_results(root / 'torch', 'film')


@pytest.mark.slow
def test_train_from_an_exported_folder(root, folder, encoded):
  options = {'init_from': f'pretrained:{folder}', 'train__steps': 2}
  run(*tiny.train_command('demo_stage1', root / 'runs' / 'tuned', encoded, **options))


def test_plan(root):
  shutil.copytree(tiny.ROOT / 'configs', root / 'configs')
  config, figures = root / 'configs' / 'stage1_dit.py', root / 'plan.json'
  run('ttm_jax.plan', f'--config={config}', '--topology=h100x16', f'--json={figures}')
  (found,) = json.loads(figures.read_text())
  assert found['devices'] == 16
