"""From an image and texts to files: the commands `generate` and `evaluate`."""

import json
import sys

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers import cli, tiny
from ttm_jax import trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage, fit
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics.motion import mean_iou
from ttm_jax.metrics.video import psnr
from ttm_jax.pytorch.annotation.texts import name_from

STEPS = 4  # Sampling steps, as set in tests/helpers/tiny.py.


@pytest.fixture(scope='module')
def clip(clips):
  """A validation clip with two objects or more."""
  held_out = Clips(clips, 'validation')
  return next(c for c in map(held_out.__getitem__, range(len(held_out))) if c.ids[0].max() > 1)


@pytest.fixture(scope='module')
def arguments(clip, tmp_path_factory):
  """Return the image, masks and texts of the clip as arguments of `generate`."""
  folder = tmp_path_factory.mktemp('picture')
  Image.fromarray(clip.video[0]).save(folder / 'photo.png')
  trajectory.write_folder(folder / 'masks', clip.ids[:1])
  return [
    f'--image={folder}/photo.png',
    f'--segmentation={folder}/masks/00000.png',
    f'--prompt={clip.caption}',
    f'--motion={clip.motion}',
    f'--object=1: {clip.prompts[0]}',
    f'--object=2: {clip.prompts[1]}',
  ]


@pytest.fixture(scope='module')
def chained(arguments, stage1, stage2, tmp_path_factory):
  """Run the whole chain; return its folder and its output."""
  folder = tmp_path_factory.mktemp('chained')
  runs = f'--stage1={stage1}', f'--stage2={stage2}'
  ended = cli.run('ttm_jax.generate', *arguments, *runs, f'--out={folder}/deep/out.mp4')
  assert ended.code == 0, ended.err
  return folder / 'deep', ended


@pytest.fixture(scope='module')
def pipeline(stage1, stage2):
  return Pipeline(Stage(stage1, STAGE1), Stage(stage2, STAGE2))


def request_of(clip, caption=None, prompts=None):
  given = {1: clip.prompts[0], 2: clip.prompts[1]} if prompts is None else prompts
  return Request(clip.video[0], clip.ids[0], caption or clip.caption, clip.motion, given)


def test_the_chain_writes_what_it_says(chained):
  folder, ended = chained
  written = ended.out.split()
  names = ['out.mp4', 'out_trajectory/', 'out_trajectory.mp4', 'out_side_by_side.mp4']
  assert written == [str(folder / name) + '/' * name.endswith('/') for name in names]
  assert sorted(p.name for p in folder.iterdir()) == sorted(name.strip('/') for name in names)
  assert 'Traceback' not in ended.err


@pytest.mark.parametrize(
  'name, width',
  [
    ('out.mp4', tiny.SIDE),
    ('out_trajectory.mp4', tiny.SIDE),
    ('out_side_by_side.mp4', 3 * tiny.SIDE),
  ],
)
def test_videos_play_in_a_browser(chained, name, width):
  with av.open(str(chained[0] / name)) as container:
    (stream,) = container.streams.video
    assert (stream.codec_context.name, stream.pix_fmt) == ('h264', 'yuv420p')
    assert (stream.width, stream.height) == (width, tiny.SIDE)
    assert stream.average_rate == tiny.FPS
    assert len(list(container.decode(stream))) == tiny.FRAMES


def test_the_trajectory_starts_at_the_mask(chained, clip):
  ids = trajectory.read_folder(chained[0] / 'out_trajectory')
  assert ids.shape == (tiny.FRAMES, tiny.SIDE, tiny.SIDE)
  np.testing.assert_array_equal(ids[0], clip.ids[0])
  assert set(np.unique(ids)) <= set(np.unique(clip.ids[0]))


def test_side_by_side_begins_with_the_picture(chained, clip):
  frames, _ = read_video(chained[0] / 'out_side_by_side.mp4')
  video, _ = read_video(chained[0] / 'out.mp4')
  assert psnr(frames[:, :, : tiny.SIDE], np.broadcast_to(clip.video[0], video.shape)) > 20
  assert psnr(frames[:, :, 2 * tiny.SIDE :], video) > 25


def test_a_trajectory_of_ones_own_is_taken_as_it_is(arguments, clip, stage2, tmp_path):
  moved = np.stack([np.roll(clip.ids[0], shift, axis=1) for shift in range(tiny.FRAMES)])
  trajectory.write_folder(tmp_path / 'mine', moved)
  videos = []
  for name, seed in (('a', 7), ('b', 7), ('c', 8)):
    ended = cli.run(
      'ttm_jax.generate',
      *arguments,
      f'--trajectory={tmp_path}/mine',
      f'--stage2={stage2}',
      f'--out={tmp_path}/{name}.mp4',
      f'--seed={seed}',
    )
    assert ended.code == 0, ended.err
    written = trajectory.read_folder(tmp_path / f'{name}_trajectory')
    np.testing.assert_array_equal(written, moved)
    videos.append((tmp_path / f'{name}.mp4').read_bytes())
  assert videos[0] == videos[1] != videos[2]


def test_what_is_given_matters(pipeline, clip):
  """Each input reaches the network: changing it changes the video, and nothing else does."""
  ids, other = clip.ids, clip.ids[:, ::-1]
  base = pipeline.videos([request_of(clip)], ids[None], 3)
  np.testing.assert_array_equal(pipeline.videos([request_of(clip)], ids[None], 3), base)
  assert (pipeline.videos([request_of(clip)], ids[None], 4) != base).any()
  assert (pipeline.videos([request_of(clip)], other[None], 3) != base).any()
  assert (pipeline.videos([request_of(clip, 'Nothing of the kind.')], ids[None], 3) != base).any()
  assert (pipeline.videos([request_of(clip, prompts={1: 'other'})], ids[None], 3) != base).any()


def test_progress_is_told_at_each_step(pipeline, clip):
  told = {'motion': 0, 'video': 0}

  def count(what):
    return lambda: told.update({what: told[what] + 1})

  ids = pipeline.trajectories([request_of(clip)], 0, count('motion'))
  pipeline.videos([request_of(clip)], ids, 0, count('video'))
  assert told == {'motion': STEPS, 'video': STEPS}
  assert pipeline.stage1.sampling_steps == pipeline.stage2.sampling_steps == STEPS


def test_steps_and_guidance_can_be_chosen(stage2, clip, pipeline):
  told = []
  guided = Stage(stage2, STAGE2, sample={'text_scale': 4.0}, steps=2)
  video = guided.generate([request_of(clip)], 3, clip.ids[None], lambda: told.append(1))
  plain = Stage(stage2, STAGE2, steps=2).generate([request_of(clip)], 3, clip.ids[None])
  assert len(told) == 2
  assert (video != plain).any()


def test_pictures_of_another_size_are_fitted(clip, stage1, stage2, tmp_path):
  # Twice as wide and high, with a border at the left and right that the crop removes.
  large = np.pad(np.kron(clip.ids[0], np.ones((2, 2), np.uint8)), ((0, 0), (6, 6)))
  picture = np.pad(clip.video[0].repeat(2, 0).repeat(2, 1), ((0, 0), (6, 6), (0, 0)))
  Image.fromarray(picture).save(tmp_path / 'photo.png')
  Image.fromarray(large).save(tmp_path / 'mask.png')
  ended = cli.run(
    'ttm_jax.generate',
    f'--image={tmp_path}/photo.png',
    f'--segmentation={tmp_path}/mask.png',
    '--prompt=A thing moves.',
    f'--stage1={stage1}',
    f'--stage2={stage2}',
    f'--out={tmp_path}/out.mp4',
  )
  assert ended.code == 0, ended.err
  assert 'resized and center-cropped from 44 x 32 to 16 x 16 pixels' in ended.out
  ids = trajectory.read_folder(tmp_path / 'out_trajectory')
  np.testing.assert_array_equal(ids[0], clip.ids[0])
  video, fps = read_video(tmp_path / 'out.mp4')
  assert (video.shape, fps) == ((tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3), tiny.FPS)


def test_what_is_missing_is_named(arguments, stage1, stage2, tmp_path):
  runs = f'--stage1={stage1}', f'--stage2={stage2}', f'--out={tmp_path}/out.mp4'
  image, mask, prompt, *_ = arguments
  for given, said in (
    (
      [image, prompt],
      'error: give --segmentation MASK.png; or --llm, --detector and --sam to have',
    ),
    ([mask, prompt], 'error: give --image PICTURE, or --described FILE'),
    ([image, mask], 'error: give --prompt, what the video is to show'),
    (['--described=x', '--llm=y'], 'error: --described and models exclude each other'),
    (['--described=/none'], 'error: /none: there is no such file; make it with python -m data_'),
  ):
    ended = cli.run('ttm_jax.generate', *given, *runs)
    assert ended.code == 2 and ended.err.startswith(said), ended.err
  ended = cli.run(
    'ttm_jax.generate', image, prompt, '--llm=no/such/llm', '--offline', *runs, before=no_pytorch
  )
  assert ended.code == 2 and 'or describe the picture on a host that has them' in ended.err
  assert not list(tmp_path.iterdir())


ABSENT = ('torch', 'transformers', 'tokenizers')


class Absent:
  """Hides every module of PyTorch."""

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ABSENT:
      raise ModuleNotFoundError(f'no module named {name}')


def no_pytorch() -> None:
  """Simulate a host without PyTorch in a process."""
  for name in [name for name in sys.modules if name.split('.')[0] in ABSENT]:
    del sys.modules[name]
  sys.meta_path.insert(0, Absent())


@pytest.fixture(scope='module')
def reads_clip(clips, tmp_path_factory):
  """A run of stage 2 that embeds text with a CLIP."""
  pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")
  from tests.helpers import tiny_models

  folder = tmp_path_factory.mktemp('clip')
  clip = tiny_models.clip_text(folder / 'model')
  made = cli.run(
    'data_tools.encode',
    f'--clips={clips}',
    f'--out={folder}/latents',
    f'--codec={tiny.CODEC}',
    f'--text=clip={clip}:77:20',
    '--max_objects=3',
    '--text_device=cpu',
    '--offline',
  )
  assert made.code == 0 and 'begin with "FPS-8" (--text_prefix)' in made.out, made.err
  command = tiny.train_command('demo_stage2', folder / 'run', folder / 'latents', train__steps=2)
  ended = cli.run(*command)
  assert ended.code == 0, ended.err
  return folder / 'run'


@pytest.mark.slow
def test_a_host_without_pytorch_generates_from_a_description(
  arguments, clip, stage1, reads_clip, tmp_path
):
  """Texts of stage 2 are embedded elsewhere; the video equals that of a host that embeds itself."""
  device = '--device=cpu', '--offline'
  described = tmp_path / 'photo.safetensors'
  ended = cli.run(
    'data_tools.describe', *arguments, f'--run={reads_clip}', *device, f'--out={described}'
  )
  assert ended.code == 0, ended.err
  assert ended.out.splitlines() == [
    f'caption: {clip.caption}',
    f'motion: {clip.motion}',
    *(f'object {i}, {name_from(p)}: {p}' for i, p in enumerate(clip.prompts[:2], 1)),
    *(f'object {i} has no prompt of its own' for i in range(3, clip.ids[0].max() + 1)),
    str(described),
    str(described.with_name('photo_found.png')),
  ]
  runs = f'--stage1={stage1}', f'--stage2={reads_clip}'
  ended = cli.run(
    'ttm_jax.generate',
    f'--described={described}',
    *runs,
    f'--out={tmp_path}/a.mp4',
    before=no_pytorch,
  )
  assert ended.code == 0, ended.err
  assert f'motion: {clip.motion}' in ended.out and f'{tmp_path}/a_found.png shows' in ended.out
  shown = np.asarray(Image.open(tmp_path / 'a_found.png'))
  np.testing.assert_array_equal(shown, trajectory.overlay(clip.video[:1], clip.ids[:1])[0])
  ended = cli.run('ttm_jax.generate', *arguments, *runs, *device, f'--out={tmp_path}/b.mp4')
  assert ended.code == 0, ended.err
  assert (tmp_path / 'a.mp4').read_bytes() == (tmp_path / 'b.mp4').read_bytes()
  # Another caption would need the model.
  ended = cli.run(
    'ttm_jax.generate',
    f'--described={described}',
    '--prompt=Something else.',
    *runs,
    f'--out={tmp_path}/c.mp4',
    before=no_pytorch,
  )
  assert ended.code == 2 and 'no embedding of "FPS-8 Something else." by clip' in ended.err


def test_fit_covers_and_crops_the_centre():
  ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None], (20, 40, 3))
  # At its own size, the middle 20 of 40 columns remain; enlarged twice, the middle 10.
  np.testing.assert_array_equal(fit(ramp, 20, 20)[0, :, 0], np.arange(10, 30))
  mask = fit(ramp[..., 0], 40, 20, nearest=True)
  np.testing.assert_array_equal(mask[0], np.arange(15, 25).repeat(2))


def test_an_evaluation_writes_its_report(clips, stage1, stage2, tmp_path):
  runs = f'--stage1={stage1}', f'--stage2={stage2}'
  ended = cli.run('ttm_jax.evaluate', *runs, f'--clips={clips}', f'--out={tmp_path}/report')
  assert ended.code == 0, ended.err
  figures = json.loads((tmp_path / 'report' / 'metrics.json').read_text())
  held_out = Clips(clips, 'validation')
  truth = [held_out[i].video for i in range(len(held_out))]
  still = np.mean([psnr(video, np.broadcast_to(video[:1], video.shape)) for video in truth])
  assert figures['clips'] == tiny.VALIDATION_CLIPS
  np.testing.assert_allclose(figures['video']['first frame repeated (lower bound)']['psnr'], still)
  masks = [held_out[i].ids for i in range(len(held_out))]
  kept = np.mean([mean_iou(np.broadcast_to(ids[:1], ids.shape), ids) for ids in masks])
  np.testing.assert_allclose(figures['motion']['first masks repeated (lower bound)']['iou'], kept)
  assert 0 <= figures['motion']['stage 1']['iou'] <= 1
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert held_out[0].caption in page and 'Loss of stage 2' in page
  with Image.open(tmp_path / 'report' / 'samples.gif') as animation:
    assert animation.n_frames == tiny.FRAMES
