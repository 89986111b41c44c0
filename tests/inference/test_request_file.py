"""Files of many requests: what they mean, and which are refused."""

import argparse
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, exported, tiny
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.request_file import read_requests
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.video import psnr

FLAGS = argparse.Namespace(out='videos', image=None, prompt=None, object=[], seed=5)


def written(folder, *lines):
  """Write lines to a file; return its path."""
  path = folder / 'requests.jsonl'
  texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
  path.write_text('\n'.join(texts) + '\n')
  return str(path)


def test_lines_complete_the_flags(tmp_path):
  path = written(
    tmp_path,
    {'image': 'a.png', 'prompt': 'A dog.', 'objects': {'1': 'a dog', '2': 'a cat: black'}},
    '',
    {'image': '/b.png', 'seed': 7, 'out': 'b/c.mp4'},
  )
  one, two = read_requests(path, FLAGS)
  assert (one.image, one.prompt, one.seed) == (f'{tmp_path}/a.png', 'A dog.', 5)
  assert one.object == ['1: a dog', '2: a cat: black'] and two.object == []
  assert (one.out, two.out) == ('videos/0001.mp4', 'videos/b/c.mp4')
  assert (two.image, two.seed, two.where) == ('/b.png', 7, f'{path}, line 3')


@pytest.mark.parametrize(
  'line, said',
  [
    ('{"image": ', 'not JSON'),
    ('[1]', 'must be a JSON object, not list'),
    ({'images': 'a'}, 'unknown key "images" (did you mean "image"?): the keys are image,'),
    ({'prompt': 3}, '"prompt" must be a text, not 3'),
    ({'seed': 1.5}, '"seed" must be a whole number, not 1.5'),
    ({'seed': True}, '"seed" must be a whole number, not true'),
    ({'objects': ['a dog']}, '"objects" must map ids to prompts'),
    ({'objects': {'1': 2}}, '"objects" must map ids to prompts'),
    ({'out': 'a.gif'}, '"out" is \'a.gif\': give the name of an .mp4 in the folder --out'),
    ({'out': '../a.mp4'}, '"out" is \'../a.mp4\': give the name of an .mp4'),
    ({'out': '/a.mp4'}, '"out" is \'/a.mp4\': give the name of an .mp4'),
    ({'out': '0001.mp4'}, '0001.mp4 is the video of line 1 already: give another "out"'),
    ('"\\ud800"', 'not JSON'),
    ('[' * 100_000, 'not JSON'),
  ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path, line, said):
  path = written(tmp_path, {'image': 'a.png'}, line)
  with pytest.raises(InputError, match=f'^{re.escape(f"{path}, line 2: {said}")}'):
    read_requests(path, FLAGS)


def test_files_without_requests_are_refused(tmp_path):
  with pytest.raises(InputError, match='there is no such file'):
    read_requests(str(tmp_path / 'none'), FLAGS)
  with pytest.raises(InputError, match='has no request: write one JSON object per line'):
    read_requests(written(tmp_path, '', '  '), FLAGS)
  (tmp_path / 'image').write_bytes(b'\x89PNG')
  with pytest.raises(InputError, match='is not UTF-8'):
    read_requests(str(tmp_path / 'image'), FLAGS)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Tiny runs of both stages."""
  return exported.make_runs(tmp_path_factory.mktemp('runs'), 'dit')


@pytest.fixture
def line(tmp_path):
  """A request as a line."""
  request = exported.request()
  Image.fromarray(request.picture).save(tmp_path / 'photo.png')
  trajectory.write_folder(tmp_path / 'masks', request.mask[None])
  return {
    'image': 'photo.png',
    'segmentation': 'masks/00000.png',
    'prompt': request.caption,
    'motion': request.motion,
    'objects': {str(i): text for i, text in request.prompts.items()},
  }


def test_many_videos_by_one_command(runs, line, tmp_path):
  """Each is the one that a command of its own would generate, and what exists is kept."""
  request = exported.request()
  trajectory.write_folder(tmp_path / 'mine', exported.moved(request.mask))
  lines = [line, {**line, 'seed': 3}, {**line, 'seed': 4, 'out': 'x/four.mp4'}]
  lines.append({**line, 'trajectory': 'mine', 'seed': 3})
  command = [
    f'--requests={written(tmp_path, *lines)}',
    *(f'--{name}={run}' for name, run in zip(('stage1', 'stage2'), runs, strict=True)),
    f'--out={tmp_path}/out',
    '--batch=2',
    '--steps=2',
  ]
  ended = cli.run('ttm_jax.generate', *command)
  assert ended.code == 0, ended.err
  names = ['0001', '0002', 'x/four', '0004']
  assert [n for n in ended.out.split() if re.fullmatch(r'.*(\d|four)\.mp4', n)] == [
    f'{tmp_path}/out/{name}.mp4' for name in names
  ]
  pipeline = Pipeline(*(Stage(r, t, steps=2) for r, t in zip(runs, (STAGE1, STAGE2), strict=True)))
  for name, seed in zip(names, (0, 3, 4, 3), strict=True):
    ids = trajectory.read_folder(tmp_path / 'out' / f'{name}_trajectory')
    if name == '0004':
      np.testing.assert_array_equal(ids, exported.moved(request.mask))
    else:
      (alone,) = pipeline.trajectories([request], seed)
      assert (ids == alone).mean() > 0.99
    video, _ = read_video(tmp_path / 'out' / f'{name}.mp4')
    (wanted,) = pipeline.videos([request], ids[None], seed)
    assert wanted.shape == (tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3)
    assert psnr(video, wanted) > 25
  (tmp_path / 'out' / '0002_side_by_side.mp4').unlink()
  before = (tmp_path / 'out' / '0001.mp4').stat().st_mtime_ns
  ended = cli.run('ttm_jax.generate', *command)
  assert ended.code == 0 and '3 of 4 videos exist and are kept' in ended.out
  assert (tmp_path / 'out' / '0002_side_by_side.mp4').exists()
  assert (tmp_path / 'out' / '0001.mp4').stat().st_mtime_ns == before


def test_the_line_of_a_bad_request_is_told(runs, line, tmp_path):
  networks = [f'--{name}={run}' for name, run in zip(('stage1', 'stage2'), runs, strict=True)]

  def refused(*lines, more=()):
    path = written(tmp_path, *lines)
    given = f'--requests={path}', *networks, f'--out={tmp_path}/out', *more
    ended = cli.run('ttm_jax.generate', *given)
    assert ended.code == 2 and not (tmp_path / 'out').exists()
    return ended.err.replace(path, 'FILE').strip()

  assert refused(line, {**line, 'image': 'none.png'}).startswith('error: FILE, line 2: ')
  said = refused(line, {**line, 'objects': {'7': 'a dog'}})
  assert said.startswith('error: FILE, line 2: object 7 has a prompt but no pixel in the mask')
  assert refused(line, more=['--llm=x']).startswith('error: --llm finds what one image lacks')
  assert refused(line, more=['--batch=0']) == 'error: --batch 0: must be at least 1'
