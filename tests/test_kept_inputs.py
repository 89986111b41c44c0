"""The commands that animate an image keep their inputs, and all finished outputs."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import exported, tiny
from ttm_jax import generate as jax_generate
from ttm_jax import trajectory
from ttm_jax.errors import InputError
from ttm_jax.inference import command as animation
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch import generate as torch_generate  # noqa: E402
from ttm_jax.pytorch.pipeline import TTMPipeline  # noqa: E402

torch.set_num_threads(1)

NAMES = ['out.mp4', 'out_side_by_side.mp4', 'out_trajectory', 'out_trajectory.mp4']


@pytest.fixture(params=['jax', 'torch'])
def command(request, folders, tmp_path, monkeypatch):
  """Run `generate` of JAX, or that of the exported folder, in a folder with an image and masks."""
  asked = exported.request()
  monkeypatch.chdir(tmp_path)
  Image.fromarray(asked.picture).save('photo.png')
  trajectory.write_folder('masks', asked.mask[None])
  trajectory.write_folder('mine', exported.moved(asked.mask))
  (one, two), folder = folders['dit']
  networks = [f'--stage1={one}', f'--stage2={two}'] if request.param == 'jax' else [str(folder)]
  main = (jax_generate if request.param == 'jax' else torch_generate).main
  usual = ['--image=photo.png', '--segmentation=masks/00000.png', f'--prompt={asked.caption}']

  def run(*options):
    argv = ['generate', *networks, *usual, '--steps=2', '--out=out.mp4', *options]
    monkeypatch.setattr(sys, 'argv', argv)
    main()

  run.kind = request.param
  return run


@pytest.fixture
def no_work(monkeypatch):
  """Fail if a network is loaded."""

  def worked(*args, **options):
    raise AssertionError('a network was loaded')

  monkeypatch.setattr(Stage, '__init__', worked)
  monkeypatch.setattr(TTMPipeline, 'from_pretrained', worked)


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def refused(command, *options):
  with pytest.raises(InputError) as caught:
    command(*options)
  return str(caught.value)


@pytest.mark.parametrize(
  'options, said',
  [
    (
      ['--trajectory=mine_trajectory', '--out=mine.mp4'],
      'mine_trajectory would overwrite mine_trajectory (the same place), which --trajectory reads',
    ),
    (['--trajectory=./x/../mine_trajectory', '--out=mine.mp4'], 'mine_trajectory would overwrite'),
    (['--trajectory=link', '--out=mine.mp4'], 'mine_trajectory would overwrite link (the same'),
    (['--trajectory=mine_trajectory', '--out=alias.mp4'], 'alias_trajectory would overwrite'),
    (['--trajectory=links', '--out=mine.mp4'], 'mine_trajectory would overwrite links/00000.png'),
    (
      ['--segmentation=mine_trajectory/00000.png', '--out=mine.mp4'],
      'mine_trajectory would overwrite mine_trajectory/00000.png inside it, which --segmentation',
    ),
    (['--image=mine_trajectory/00000.png', '--out=mine.mp4'], 'mine_trajectory would overwrite'),
    (
      ['--described=out_found.png'],
      'out_found.png would overwrite out_found.png (the same place), which --described reads',
    ),
    (['--image=out_found.png', '--llm=x'], 'out_found.png would overwrite out_found.png (the'),
    (['--motion_template=clip.mp4', '--out=clip.mp4'], 'clip.mp4 would overwrite clip.mp4'),
  ],
)
def test_no_input_is_overwritten(command, no_work, tmp_path, options, said):
  (tmp_path / 'mine').rename('mine_trajectory')
  # Larger than the networks take: resolution would be lost.
  for path in (tmp_path / 'mine_trajectory').iterdir():
    with Image.open(path) as picture:
      large = picture.resize((64, 64), Image.Resampling.NEAREST)
    large.save(path)
  (tmp_path / 'x').mkdir()
  for link in ('link', 'alias_trajectory'):
    (tmp_path / link).symlink_to('mine_trajectory')
  (tmp_path / 'links').mkdir()
  for path in (tmp_path / 'mine_trajectory').iterdir():
    (tmp_path / 'links' / path.name).symlink_to(path)
  (tmp_path / 'out_found.png').write_bytes((tmp_path / 'photo.png').read_bytes())
  (tmp_path / 'clip.mp4').write_text('a template')
  before = contents(tmp_path)
  assert refused(command, *options).startswith(said)
  assert contents(tmp_path) == before


def test_a_stray_frame_shows_before_the_work(command, no_work, tmp_path):
  """It is refused at once, also in upper case: `read_folder` takes it for a frame."""
  for stray in ('00900.png', '00004.PNG', 'note.png'):
    folder = tmp_path / f'{stray[:-4]}_trajectory'
    folder.mkdir()
    (folder / stray).write_bytes(b'')
    said = refused(command, f'--out={stray[:-4]}.mp4')
    assert said == (
      f'{stray[:-4]}_trajectory holds {stray}, which would be read as a frame of this clip of'
      f' {tiny.FRAMES} frames; move it away, or name another folder'
    )
    assert [p.name for p in folder.iterdir()] == [stray]


def test_a_place_that_cannot_be_written_shows_before_the_work(command, no_work, tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'out_side_by_side.mp4').mkdir()
  (tmp_path / 'b_trajectory').write_text('')
  for option, said in (
    ('--out=file/a.mp4', 'cannot write file/a.mp4 (not a directory): name another --out'),
    ('--out=out.mp4', 'cannot write out_side_by_side.mp4 (there is a folder of that name)'),
    ('--out=b.mp4', 'cannot write b_trajectory (there is a file of that name)'),
    (f'--out={"n" * 239}.mp4', f'cannot write {"n" * 239}_side_by_side.mp4 (file name too long)'),
  ):
    assert refused(command, option).startswith(said)


@pytest.mark.parametrize(
  'option, said',
  [
    (
      '--object=²: a dog',
      '--object "²: a dog": write the id in the mask, a colon and what it does',
    ),
    ('--object=-1: a dog', '--object "-1: a dog": write the id in the mask'),
    (f'--object={"1" * 5000}: a dog', '--object "11111'),
    ('--seed=99999999999999999999', '--seed 99999999999999999999: must be from 0 to 922337203685'),
    ('--seed=9223372036854775808', '--seed 9223372036854775808: must be from 0 to 92233720368547'),
    ('--seed=-1', '--seed -1: must be from 0 to 9223372036854775807'),
    ('--steps=0', '--steps 0: must be at least 1; leave it out for the configured number'),
    ('--steps=-4', '--steps -4: must be at least 1'),
    ('--visual_scale=nan', '--visual_scale nan: must be a finite number of at least 0'),
    ('--text_scale=inf', '--text_scale inf: must be a finite number of at least 0'),
    ('--text_scale=-1', '--text_scale -1: must be a finite number of at least 0'),
    ('--threshold=nan', '--threshold nan: must be a finite number of at least 0 and at most 1'),
    ('--model_batch=0', '--model_batch 0: must be at least 1'),
  ],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(command, no_work, option, said):
  assert refused(command, option).startswith(said)


def test_a_device_that_is_not_there_is_refused(command, no_work):
  if command.kind == 'torch':
    for device in ('nonsense', 'cuda:77'):
      assert refused(command, f'--device={device}').startswith(f'--device {device} cannot be used')


def test_the_largest_seed_will_do(command, tmp_path):
  command('--trajectory=mine', '--seed=9223372036854775807')
  assert (tmp_path / 'out.mp4').is_file()


def test_frame_0_must_be_that_of_the_segmentation(command, no_work, tmp_path, capsys):
  """The error states the difference; another image or another order of objects is refused."""
  mask = exported.request().mask
  swapped = np.array([0, 2, 1], np.uint8)[exported.moved(mask)]
  trajectory.write_folder('swapped', swapped)
  assert refused(command, '--trajectory=swapped') == (
    'object 1 of the segmentation is object 2 in frame 0 of the trajectory (IoU 1.00): number the'
    ' objects alike in both'
  )
  trajectory.write_folder('other', np.roll(exported.moved(mask), 8, axis=(1, 2)) % 2)
  assert refused(command, '--trajectory=other') == (
    'frame 0 of the trajectory shows none of the objects where the segmentation has them (IoU'
    ' object 1 0.00, object 2 0.00): give the trajectory of this picture, or its frame 0 as the'
    ' segmentation'
  )
  # Object 1 is 5 x 6 pixels; with one more column, 30 of 35 are shared. Object 2 is unchanged.
  edited = exported.moved(mask)
  edited[0, 2:7, 9] = 1
  trajectory.write_folder('edited', edited)
  with pytest.raises(AssertionError, match='a network was loaded'):
    command('--trajectory=edited')
  said = capsys.readouterr().out
  assert 'frame 0 of the trajectory differs from the segmentation: IoU object 1 0.86\n' in said
  with pytest.raises(AssertionError, match='a network was loaded'):
    command('--trajectory=mine')
  assert 'differs' not in capsys.readouterr().out


def test_a_name_with_dots_keeps_its_neighbors(command, tmp_path, capsys):
  """`clip.v1.mp4` has no common outputs with `clip.mp4`."""
  (tmp_path / 'clip.mp4').write_bytes(b'mine')
  command('--trajectory=mine', '--out=clip.v1.mp4')
  assert (tmp_path / 'clip.mp4').read_bytes() == b'mine'
  names = [n.replace('out', 'clip.v1') for n in NAMES]
  assert sorted(p.name for p in tmp_path.glob('clip.v1*')) == names
  said = capsys.readouterr().out.split()
  assert sorted(name.strip('/') for name in said) == names


def test_a_video_that_fails_leaves_its_trajectory(command, tmp_path, monkeypatch):
  """Another attempt takes it with --trajectory."""

  def fail(*args, **options):
    raise MemoryError

  where = Pipeline if command.kind == 'jax' else TTMPipeline
  monkeypatch.setattr(where, 'videos' if command.kind == 'jax' else '__call__', fail)
  with pytest.raises(MemoryError):
    command()
  ids = trajectory.read_folder('out_trajectory')
  np.testing.assert_array_equal(ids[0], exported.request().mask)
  assert len(ids) == tiny.FRAMES and not (tmp_path / 'out.mp4').exists()


def test_what_can_be_written_is(command, tmp_path, monkeypatch, capsys):
  """If the disk refuses one file, the others are complete, and the error names it."""
  usual = animation.write_video

  def full(path, frames, fps):
    if path.name == 'out_trajectory.mp4':
      raise OSError(28, 'No space left on device')
    usual(path, frames, fps)

  monkeypatch.setattr(animation, 'write_video', full)
  said = refused(command, '--trajectory=mine')
  assert said == (
    'cannot write out_trajectory.mp4 (No space left on device): free space or name another --out;'
    ' the rest is written'
  )
  names = ['out.mp4', 'out_trajectory/', 'out_side_by_side.mp4']
  assert capsys.readouterr().out.split() == names
  assert sorted(p.name for p in tmp_path.glob('out*')) == sorted(n.strip('/') for n in names)


def test_both_stages_draw_noise_of_their_own(folders):
  (one, two), _ = folders['dit']
  first, second = Stage(one, STAGE1), Stage(two, STAGE2)
  request = exported.request()
  drawn = []
  for stage, ids in ((first, None), (second, exported.moved(request.mask)[None])):
    # Not compiled: what the sampler starts from.
    _, state = stage.sampler.begin(stage.context.codec, stage.batch([request], ids), stage.key(3))
    drawn.append(np.asarray(state.solver[0], float).ravel())
  a, b = drawn
  assert a.shape == b.shape
  # Equal noise has a correlation of 1, independent noise about the inverse root of the size.
  assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)


def test_one_call_and_two_of_the_exported_pipeline_draw_alike(folders):
  pipe = exported.pipe(folders['dit'][1])
  drawn = []
  usual = pipe._sample

  def sample(stage, condition, sampling, noise, told):
    drawn.append((stage, noise.numpy().copy()))
    return usual(stage, condition, sampling, noise, told)

  pipe._sample = sample
  given = {**exported.arguments(), 'num_inference_steps': 2, 'output_type': 'latent'}
  alone = {k: v for k, v in given.items() if k not in ('object_prompts', 'output_type')}

  def seeded():
    return torch.Generator().manual_seed(7)

  pipe(**given, generator=seeded())
  ids = pipe.generate_trajectory(**alone, generator=seeded())
  pipe(**given, trajectory=ids, generator=seeded())
  # If the noise of one stage is given, that of the other is unchanged.
  pipe(**given, motion_latents=torch.zeros(drawn[0][1].shape), generator=seeded())
  torch.manual_seed(7)
  pipe(**given)
  stages = [stage for stage, _ in drawn]
  assert stages == ['stage1', 'stage2'] * 4
  first, second = drawn[0][1], drawn[1][1]
  for index in (2, 6):
    np.testing.assert_array_equal(drawn[index][1], first)
  for index in (3, 5, 7):
    np.testing.assert_array_equal(drawn[index][1], second)
  assert not drawn[4][1].any()
  correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
  assert abs(correlation) < 4 / np.sqrt(first.size)


def test_a_full_disk_leaves_the_old_trajectory_whole(tmp_path, monkeypatch):
  old, new = np.zeros((3, 8, 8), np.uint8), np.ones((3, 8, 8), np.uint8)
  trajectory.write_folder(tmp_path / 'ids', old)
  (tmp_path / 'ids' / 'notes.txt').write_text('kept')
  usual = trajectory.pathlib.Path.write_bytes

  def full(self, content):
    if re.fullmatch(r'0+2\.png', self.name):
      raise OSError(28, 'No space left on device')
    return usual(self, content)

  with monkeypatch.context() as patch:
    patch.setattr(trajectory.pathlib.Path, 'write_bytes', full)
    for folder in ('ids', 'fresh'):
      with pytest.raises(InputError, match=f'label maps to .*{folder} .No space left on device.'):
        trajectory.write_folder(tmp_path / folder, new)
  assert [p.name for p in tmp_path.iterdir()] == ['ids']
  np.testing.assert_array_equal(trajectory.read_folder(tmp_path / 'ids'), old)
  trajectory.write_folder(tmp_path / 'ids', new)
  np.testing.assert_array_equal(trajectory.read_folder(tmp_path / 'ids'), new)
  assert (tmp_path / 'ids' / 'notes.txt').read_text() == 'kept'
  assert sorted(p.suffix for p in (tmp_path / 'ids').iterdir()) == ['.png'] * 3 + ['.txt']
