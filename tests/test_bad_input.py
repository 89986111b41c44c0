"""Unusable input is refused: one clear error message, exit code 2, no partial output."""

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, tiny
from tests.helpers.sentences import last_sentence, sentence
from ttm_jax import trajectory
from ttm_jax.training import checkpoint
from ttm_jax.training.sources import read_parameters

# Generation.


@pytest.fixture(scope='module')
def given(tmp_path_factory):
  """An image, valid and invalid masks, and trajectories."""
  folder = tmp_path_factory.mktemp('given')
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / 'photo.png')
  mask = np.zeros((16, 16), np.uint8)
  mask[4:8, 4:8] = 1

  def save(name, values):
    Image.fromarray(values).save(folder / name)

  save('mask.png', mask)
  save('small.png', mask[:12, :12])
  save('none.png', mask * 0)
  save('nine.png', np.arange(256, dtype=np.uint8).reshape(16, 16) % 10)
  save('fifth.png', mask * 5)
  (folder / 'text.png').write_text('no picture')
  (folder / 'half.png').write_bytes((folder / 'photo.png').read_bytes()[:400])
  trajectory.write_folder(folder / 'long', np.stack([mask] * (tiny.FRAMES + 1)))
  trajectory.write_folder(folder / 'good', np.stack([mask] * tiny.FRAMES))
  (folder / 'empty').mkdir()
  return folder


@pytest.fixture
def generate(given, stage1, stage2, tmp_path):
  """Run `generate` with one change to valid arguments; return its error message."""

  def run(*objects, **changes):
    options = {
      'image': given / 'photo.png',
      'segmentation': given / 'mask.png',
      'prompt': 'A thing moves.',
      'stage1': stage1,
      'stage2': stage2,
      'out': tmp_path / 'new' / 'out.mp4',
    }
    options.update({k: given / v if isinstance(v, Path) else v for k, v in changes.items()})
    flags = [f'--{name}={value}' for name, value in options.items() if value is not None]
    flags += [f'--object={text}' for text in objects]
    said = sentence(cli.run('ttm_jax.generate', *flags))
    assert not (tmp_path / 'new').exists()
    return said.replace(f'{given}/', '')

  return run


@pytest.mark.parametrize(
  'option, value, said',
  [
    ('image', Path('nope.png'), 'nope.png: there is no such image; check the path'),
    ('image', Path('text.png'), 'text.png: not a readable image; use PNG or JPEG'),
    ('image', Path('half.png'), 'half.png: not a readable image; use PNG or JPEG'),
    ('image', Path('empty'), 'empty: cannot be read (Is a directory); check the path'),
    ('segmentation', Path('nope.png'), 'nope.png: there is no such image; check the path'),
    ('segmentation', Path('text.png'), 'text.png: not a readable image; save the mask as PNG'),
    (
      'segmentation',
      Path('photo.png'),
      'photo.png: no pixel is black, so that its colors do not tell',
    ),
    (
      'segmentation',
      Path('small.png'),
      'the mask is 12 x 12 but the picture is 16 x 16 pixels; give a mask of the same size',
    ),
    ('segmentation', Path('none.png'), 'none.png shows no object; give each object a number'),
    ('segmentation', Path('nine.png'), 'nine.png: holds 9 objects, but there can be 8; make the'),
    (
      'segmentation',
      Path('fifth.png'),
      'there is an object 5, but this run knows 3: number the objects 1 to 3',
    ),
    ('prompt', '  ', 'the prompt is empty; say what the video shows (--prompt)'),
    ('trajectory', Path('nope'), 'no folder nope; give a folder of PNG label maps'),
    ('trajectory', Path('empty'), 'empty holds no PNG files; give a folder of PNG label maps'),
    (
      'trajectory',
      Path('long'),
      'the trajectory has 5 frames of 16 x 16, this run takes 4 of 16 x 16',
    ),
    ('stage1', None, 'give --stage1 RUN to generate the motion, or --trajectory FOLDER'),
    ('stage2', Path('nope'), 'nope is not a run directory: nope/config.json is missing'),
    ('out', 'video.gif', '--out video.gif: give a name that ends in .mp4'),
    ('steps', 3, 'config.process: steps must be even and at most emulated_steps=250, got 3'),
  ],
)
def test_generation_refuses(generate, option, value, said):
  assert generate(**{option: value}).startswith(said)


@pytest.mark.parametrize(
  'objects, said',
  [
    (['2: a dog'], 'object 2 has a prompt but no pixel in the mask, which has objects [1]'),
    (['a dog runs'], '--object "a dog runs": write the id in the mask, a colon and what it does'),
    (['1:'], '--object "1:": write the id in the mask, a colon and what it does'),
    (['dog: runs'], '--object "dog: runs": write the id in the mask, a colon and what it does'),
    (['1: a dog', '1: a cat'], '--object gives object 1 two prompts; join them to one'),
  ],
)
def test_object_prompts_must_fit(generate, objects, said):
  assert generate(*objects) == said


def test_stages_are_not_mixed_up(generate, stage1, stage2):
  said = "run {} was trained for '{}', {} is needed"
  expected = said.format(stage1, 'image_to_motion', 'motion_to_video')
  assert generate(stage2=stage1) == expected
  expected = said.format(stage2, 'motion_to_video', 'image_to_motion')
  assert generate(stage1=stage2) == expected


def test_a_run_must_have_a_checkpoint(generate, stage2, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(stage2, run, ignore=lambda *_: ['checkpoints'])
  said = f'run {run} has no checkpoint yet: train it longer, or give another run'
  assert generate(stage2=run) == said
  assert not (run / 'checkpoints').exists()


def test_a_checkpoint_must_be_that_of_its_config(generate, stage2, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(stage2, run)
  config = json.loads((run / 'config.json').read_text())
  config['model']['ffn'] = 56
  (run / 'config.json').write_text(json.dumps(config))
  assert generate(stage2=run) == (
    f'the checkpoint of run {run} is of another architecture: parameter blocks.ffn.down.kernel is'
    ' (1, 48, 32) there, (1, 56, 32) by its configuration and dataset'
  )


def test_a_damaged_checkpoint_is_named(generate, stage2, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(stage2, run)
  for file in (run / 'checkpoints' / '40' / 'ema').rglob('d/*'):
    file.write_bytes(b'')
  assert generate(stage2=run).startswith(f'checkpoint {run}/checkpoints/40 cannot be read (')


def test_an_unwritable_place_is_named(given, stage1, stage2, tmp_path):
  (tmp_path / 'file').write_text('')
  ended = cli.run(
    'ttm_jax.generate',
    f'--image={given}/photo.png',
    f'--segmentation={given}/mask.png',
    '--prompt=A thing moves.',
    f'--trajectory={given}/good',
    f'--stage2={stage2}',
    f'--out={tmp_path}/file/out.mp4',
  )
  assert sentence(ended) == (
    f'cannot write {tmp_path}/file/out.mp4 (not a directory): name another --out'
  )
  assert os.listdir(tmp_path) == ['file']


# Training.


@pytest.fixture
def train(latents, tmp_path):
  """Train with one change to a valid command; return its error message."""

  def run(*more, data=latents, workdir=None, **changes):
    command = tiny.train_command('demo_stage1', workdir or tmp_path / 'run', data, **changes)
    said = sentence(cli.run(*command, *more))
    assert workdir or not (tmp_path / 'run').exists()
    return said

  return run


@pytest.mark.parametrize(
  'flag, said',
  [
    (
      '--config.optimizer.learning_rat=1',
      'unknown config key \'learning_rat\'. Did you mean "learning_rate" instead of'
      ' "learning_rat"?',
    ),
    ('--config.optimiser.clip=1', 'unknown config key \'optimiser\'. Did you mean "optimizer"'),
    ('--config.train.steps=many', 'flag --config.train.steps=many: '),
    ('--workdri=runs', "Unknown command line flag 'workdri'. Did you mean: workdir"),
    ('extra', "unexpected argument 'extra': options are written --name=value"),
    ('--config=configs/none.py', 'config file configs/none.py does not exist'),
    ('--config.data.path=', 'give the latents dataset: --config.data.path=DIR'),
    ('--config.data.path=/nope', '/nope is neither a latents dataset nor a run: /nope/context/'),
    ('--config.init_from=/nope', '/nope is not a run directory: /nope/config.json is missing'),
    ('--config.task=image_to_vide', "task 'image_to_vide' is unknown: choose one of"),
    (
      '--config.model.channels=16',
      'the codec of the dataset has 6 channels, the network 16: set --config.model',
    ),
    (
      '--config.model.patch=(1, 1)',
      'the dataset has token masks for grids 2 x 2, the network has 4 x 4: encode the clips with',
    ),
    ('--config.model.heads=5', 'config.model: width 32 must be a multiple of heads 5'),
    (
      '--config.mesh.data=3',
      "mesh {'data': 3, 'fsdp': 1, 'sequence': 1, 'tensor': 1} does not fit",
    ),
    ('--config.data.batch_size=5', 'config.data.batch_size 5 must be a multiple of 2: of'),
    ('--config.optimizer.schedule=step', "config.optimizer.schedule must be 'constant', 'cosine'"),
  ],
)
def test_training_refuses(train, flag, said):
  assert train(flag, train__accumulate=2).startswith(said)


def test_a_job_must_be_described_whole(train, latents, tmp_path):
  command = tiny.train_command('demo_stage1', tmp_path / 'run', latents)
  said = sentence(cli.run(*command, env={'TTM_PROCESSES': '2'}))
  assert said == 'a job of several processes also needs TTM_COORDINATOR and TTM_PROCESS'
  job = {'TTM_COORDINATOR': 'localhost:1', 'TTM_PROCESSES': '2', 'TTM_PROCESS': '2'}
  said = sentence(cli.run(*command, env=job))
  assert said.startswith('TTM_PROCESSES=2 must be a number and TTM_PROCESS=2 one from 0')


def test_a_workdir_belongs_to_one_configuration(train, stage1):
  before = (stage1 / 'config.json').read_text()
  said = train(workdir=stage1, train__steps=100, train__checkpoint_every=20, seed=5)
  assert said == (
    f'{stage1} holds another run: config.seed is 0 there and 5 here; choose another --workdir, or'
    ' the same value'
  )
  assert (stage1 / 'config.json').read_text() == before


@pytest.mark.parametrize(
  'option, said',
  [
    (
      '--words_dim=8',
      'the checkpoint of run {run} is of another architecture: parameter'
      ' text.projections.words.kernel is (16, 32) there, (8, 32) by its configuration and dataset',
    ),
    (
      '--palette=supervision_half',
      "{run} was begun with clips encoded otherwise: palette is 'spread8' there and"
      " 'supervision_half' in {other}; give the dataset it was begun with, or another --workdir",
    ),
  ],
)
def test_a_run_goes_on_with_clips_encoded_as_before(stage1, clips, tmp_path, option, said):
  other, run = tmp_path / 'other', tmp_path / 'run'
  shutil.copytree(stage1, run)
  options = [f'--{k}={v}' for k, v in tiny.WORDS.items()]
  place = f'--clips={clips}', f'--out={other}', f'--codec={tiny.CODEC}'
  made = cli.run('data_tools.encode', *place, *options, option)
  assert made.code == 0, made.err
  changes = {'train__steps': 120, 'train__checkpoint_every': 20}
  ended = cli.run(*tiny.train_command('demo_stage1', run, other, **changes))
  assert sentence(ended) == said.format(run=run, other=other)


@pytest.mark.parametrize('damage', ['corrupt', 'truncated'])
def test_damaged_records_are_named_while_training(latents, tmp_path, damage):
  data = tmp_path / 'data'
  shutil.copytree(latents, data)
  (shard,) = data.glob('*train*')
  content = bytearray(shard.read_bytes())
  if damage == 'corrupt':
    content[8_000] ^= 0xFF
  else:
    del content[len(content) * 2 // 3 :]
  shard.write_bytes(content)
  ended = cli.run(*tiny.train_command('demo_stage1', tmp_path / 'run', data, train__steps=100))
  assert last_sentence(ended).startswith(f'{shard}: record ')
  assert 'of split "train" cannot be read' in ended.err


def small_files() -> None:
  """Limit the file size of a training process from its first checkpoint on."""
  save = checkpoint.Checkpoints.save

  def refused(self, *state):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    save(self, *state)

  checkpoint.Checkpoints.save = refused


def full_disk() -> None:
  """Simulate a disk without free space in a process."""
  full = shutil._ntuple_diskusage(10**12, 10**12, 1_000)
  shutil.disk_usage = lambda path: full


@pytest.mark.parametrize(
  'trouble, reason',
  [
    (small_files, '(file too large)'),
    (full_disk, '(a checkpoint takes 1.8 MB, there are 0.0 MB left)'),
  ],
  ids=['while writing', 'beforehand'],
)
def test_a_disk_that_is_full_leaves_the_previous_checkpoint(
  stage1, stage1_command, tmp_path, trouble, reason
):
  run = tmp_path / 'run'
  shutil.copytree(stage1, run)
  for step in (80, 100):
    shutil.rmtree(run / 'checkpoints' / str(step))
  before = read_parameters(run)
  ended = cli.run(*stage1_command(run), before=trouble)
  assert last_sentence(ended) == (
    f'cannot write to {run} {reason}: free space or choose another --workdir, then run the same'
    ' command again; the checkpoint of step 60 is complete'
  )
  after = read_parameters(run)
  np.testing.assert_array_equal(after['embed']['kernel'], before['embed']['kernel'])
  if trouble is small_files:
    # Partial output does not hinder the same command.
    again = cli.run(*stage1_command(run))
    assert again.code == 0 and 'continues after step 60' in again.err
    end = read_parameters(run), read_parameters(stage1)
    np.testing.assert_array_equal(*(e['embed']['kernel'] for e in end))


def test_a_place_that_cannot_be_written_is_named(latents, tmp_path):
  (tmp_path / 'file').write_text('')
  run = tmp_path / 'file' / 'run'
  ended = cli.run(*tiny.train_command('demo_stage1', run, latents))
  assert last_sentence(ended).startswith(f'cannot write to {run} (not a directory): ')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write to read-only directories')
def test_a_read_only_place_is_named(latents, tmp_path):
  tmp_path.chmod(0o500)
  run = tmp_path / 'run'
  ended = cli.run(*tiny.train_command('demo_stage1', run, latents))
  assert last_sentence(ended).startswith(f'cannot write to {run} (permission denied): ')


# The tools that read videos.


@pytest.mark.parametrize('content', [None, b'no video'], ids=['missing', 'unreadable'])
def test_videos_that_cannot_be_read_are_reported(tmp_path, content):
  source = tmp_path / 'source' / 'dog'
  trajectory.write_folder(source / 'masks', np.ones((4, 16, 16), np.uint8))
  if content:
    (source / 'video.mp4').write_bytes(content)
  captions = tmp_path / 'captions.json'
  captions.write_text(
    json.dumps({'dog': {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a'}}})
  )
  ended = cli.run(
    'data_tools.import_folder',
    f'--source={tmp_path}/source',
    f'--captions={captions}',
    f'--out={tmp_path}/out',
    '--frames=4',
    '--fps=8',
    '--size=16',
  )
  assert ended.code == 2 and 'Traceback' not in ended.err
  assert 'dog' in ended.out and 'video.mp4' in ended.out
  assert 'error: ' in ended.err
  assert not (tmp_path / 'out').exists()
