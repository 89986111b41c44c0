"""The command `evaluate`: what is scored, with which flags, and what is refused."""

import json
import re
import sys

import numpy as np
import pytest

from tests.helpers import exported, scored, tiny
from tests.helpers.exported import TI2V
from ttm_jax import evaluate, trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.media.video_io import write_video
from ttm_jax.media.video_reader import read_video
from ttm_jax.metrics import evaluation
from ttm_jax.metrics.defaults import METRICS
from ttm_jax.metrics.scored_videos import stem_of
from ttm_jax.metrics.video import psnr
from ttm_jax.report import pair_report, scored_folder


@pytest.fixture(scope='module')
def validation(clips):
  dataset = Clips(clips, 'validation')
  return [dataset[i] for i in range(len(dataset))]


@pytest.fixture
def command(clips, monkeypatch):
  """Run `evaluate` with the clips, two of them, unless the options name others."""

  def run(*options):
    given = [f'--clips={clips}', '--count=2', '--draws=20']
    monkeypatch.setattr(sys, 'argv', ['evaluate', *given, *map(str, options)])
    evaluate.main()

  return run


@pytest.fixture
def refused(command):
  """Run `evaluate`, and return its error message."""

  def run(*options):
    with pytest.raises(InputError) as caught:
      command(*options)
    return str(caught.value)

  return run


@pytest.fixture(scope='module')
def baseline(tmp_path_factory):
  """An untrained run of the TI2V baseline."""
  settings, where = exported.config('dit', TI2V), exported.context('dit')
  path = tmp_path_factory.mktemp('runs') / 'ti2v'
  return exported.save_run(path, settings, where, exported.parameters(settings, where))


@pytest.fixture(scope='module')
def videos(validation, tmp_path_factory):
  """Two folders of videos of the clips: exact ones, and their first frames."""
  root = tmp_path_factory.mktemp('videos')
  for clip in validation:
    write_video(root / 'exact' / f'{stem_of(clip.key)}.mp4', clip.video, clip.fps)
    still = np.broadcast_to(clip.video[:1], clip.video.shape)
    write_video(root / 'still' / f'{stem_of(clip.key)}.mp4', still, clip.fps)
  return root / 'exact', root / 'still'


def scores_of(out):
  return json.loads((out / 'scores.json').read_text())


def test_a_pair_of_runs(command, folders, validation, tmp_path, capsys):
  one, two = folders['dit'][0]
  command(f'--stage1={one}', f'--stage2={two}', f'--out={tmp_path}', '--seeds=2', '--seed=3')
  names = {p.name for p in tmp_path.iterdir()}
  assert names >= {*pair_report.FILES, *scored_folder.FILES, *scored_folder.FOLDERS}
  found, figures = scores_of(tmp_path), json.loads((tmp_path / 'metrics.json').read_text())
  assert [system['name'] for system in found['systems']] == [
    'both stages',
    'stage 2 from the ground-truth trajectory',
  ]
  # Scores of the first seed are the figures of metrics.json.
  for system in found['systems']:
    assert system['seeds'] == [3, 4]
    values = np.array(system['by_clip']['psnr'])
    assert values.shape == (2, 2) and (values[:, 0] != values[:, 1]).all()
    expected = figures['video'][system['name']]
    assert values[:, 0].mean() == pytest.approx(expected['psnr'])
    adherence = np.array(system['by_clip']['adherence_color'])
    assert adherence[:, 0].mean() == pytest.approx(expected['adherence'])
  # The other seed is that of a run of its own.
  pipeline = Pipeline(Stage(one, STAGE1), Stage(two, STAGE2))
  alone = evaluation.evaluate(pipeline, validation[:2], seed=4)
  for system, made in zip(found['systems'], (alone.chained, alone.from_truth), strict=True):
    expected = [psnr(clip.video, v) for clip, v in zip(validation, made, strict=False)]
    np.testing.assert_allclose(np.array(system['by_clip']['psnr'])[:, 1], expected)
  said = capsys.readouterr().out
  assert 'Trajectories' in said and f'{tmp_path}/gallery.html' in said
  assert 'PSNR (dB) ↑' in said


def test_one_run(command, refused, baseline, folders, validation, tmp_path):
  command(f'--run={baseline}', f'--out={tmp_path}/out', '--seeds=2', '--metrics=psnr')
  (system,) = scores_of(tmp_path / 'out')['systems']
  assert (system['name'], system['seeds']) == (str(baseline), [0, 1])
  stage = Stage(baseline, 'image_to_video')
  requests = [evaluation.request_of(clip) for clip in validation[:2]]
  for seed in (0, 1):
    made = stage.generate(requests, seed)
    expected = [psnr(clip.video, v) for clip, v in zip(validation, made, strict=False)]
    np.testing.assert_allclose(np.array(system['by_clip']['psnr'])[:, seed], expected)
  one = folders['dit'][0][0]
  assert refused(f'--run={one}', f'--out={tmp_path}/new') == (
    f"run {one} was trained for 'image_to_motion', image_to_video is needed"
  )


def test_an_exported_folder(command, folders, validation, tmp_path):
  folder = folders['dit'][1]
  outs = [tmp_path / 'two', tmp_path / 'one']
  for out, batch in zip(outs, (2, 1), strict=True):
    options = f'--steps=2 --seeds=2 --metrics=psnr --sampling_batch={batch}'.split()
    command(f'--folder={folder}', f'--out={out}', *options)
  values = [np.array(scores_of(out)['systems'][0]['by_clip']['psnr']) for out in outs]
  assert (values[0][:, 0] != values[0][:, 1]).all()
  np.testing.assert_allclose(values[0], values[1], atol=0.05)  # Noise is of the clip and seed.
  colors, _ = read_video(outs[0] / 'gallery' / f'{stem_of(validation[0].key)}.trajectory.mp4')
  palette = trajectory.render(validation[0].ids[:1])[0]
  assert np.abs(colors[0].astype(int) - palette).mean() < 12  # Frame 0 is the given mask.
  assert 'generated trajectory' in (outs[0] / 'gallery.html').read_text()


def test_videos_of_any_system(command, refused, videos, tmp_path):
  exact, still = videos
  command(f'--generated={exact}', f'--against={still}', f'--out={tmp_path}/a')
  found = scores_of(tmp_path / 'a')
  assert list(found['metrics']) == list(METRICS)
  assert found['differences']['psnr']['low'] > 0
  command(f'--generated={still}', f'--against={tmp_path}/a', f'--out={tmp_path}/b')
  turned = scores_of(tmp_path / 'b')['differences']['psnr']['value']
  assert turned == pytest.approx(-found['differences']['psnr']['value'])
  assert '**' in (tmp_path / 'a' / 'scores.md').read_text()
  # A scored folder stands for its videos where videos are needed.
  command('--pairs', tmp_path / 'a', still, f'--out={tmp_path}/study')
  assert (tmp_path / 'study' / 'page' / 'index.html').is_file()
  assert refused(f'--generated={still}', f'--out={tmp_path}/a', f'--against={tmp_path}/a') == (
    f'{tmp_path}/a/scores.json would overwrite {tmp_path}/a/scores.json (the same place), which'
    ' --against reads: name another --out'
  )


def test_deviations_are_refused_or_told(command, refused, validation, videos, tmp_path):
  exact, _ = videos
  for number, clip in enumerate(validation[:2]):
    large = clip.video.repeat(2, 1).repeat(2, 2)[: 3 + number]
    write_video(tmp_path / 'odd' / f'{stem_of(clip.key)}.mp4', large, clip.fps)
  given = f'--generated={tmp_path}/odd', f'--out={tmp_path}/out', f'--against={exact}'
  assert 'another number of frames than that of the clip in 1 video' in refused(*given)
  assert 'another size' in refused(*given, '--allow=length')
  command(*given, '--allow=length,size')
  found = scores_of(tmp_path / 'out')
  assert found['shape'] == [3, tiny.SIDE, tiny.SIDE]
  assert [note for note in found['notes'] if 'resized with antialiasing' in note]
  text = (tmp_path / 'out' / 'gallery.html').read_text()
  assert 'cut to the common length' in text and 'data-frames="3"' in text
  video, _ = read_video(next((tmp_path / 'out' / 'videos').iterdir()))
  assert video.shape == (3, tiny.SIDE, tiny.SIDE, 3)


def test_what_is_scored_must_be_named(refused, folders, videos, tmp_path):
  one, two = folders['dit'][0]
  exact, _ = videos
  out = f'--out={tmp_path}/new'
  for options in (
    [],
    [f'--stage1={one}'],
    [f'--stage1={one}', f'--stage2={two}', f'--run={two}'],
    [f'--run={one}', f'--generated={exact}'],
    [f'--generated={exact}', '--votes', 'x.json'],
  ):
    assert refused(out, *options).startswith('say what to score: --stage1 RUN and --stage2 RUN')
  assert refused(f'--generated={exact}') == (
    'give the clips (--clips DATASET) and an output folder (--out DIR)'
  )
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  'option, said',
  [
    ('--seeds=2', '--seeds generates videos, but --generated names videos that exist: leave it'),
    ('--draws=1', '--draws 1: must be at least 2'),
    ('--batch=0', '--batch 0: must be at least 1'),
    ('--show=-1', '--show -1: must be at least 0'),
    ('--metrics=psnr,simm', 'unknown metric "simm"'),
    ('--allow=all', '--allow=all: "all" cannot be allowed'),
    ('--weights=clip', '--weights clip: write NAME=MODEL'),
    ('--seed=-1', '--seed -1: must be from 0'),
    ('--against=/nowhere', '/nowhere: there is no such folder of videos; check the path'),
  ],
)
def test_flags_out_of_range(refused, videos, tmp_path, option, said):
  assert refused(f'--generated={videos[0]}', f'--out={tmp_path}/new', option).startswith(said)
  assert not (tmp_path / 'new').exists()


def test_clips_of_another_size_or_rate(refused, baseline, folders, tmp_path):
  slow = scored.clip('slow', 1, tiny.FRAMES, (tiny.SIDE, tiny.SIDE))
  slow = type(slow)(**{**vars(slow), 'fps': 5.0})
  small = scored.clip('small', 1, tiny.FRAMES, (tiny.SIDE, 2 * tiny.SIDE))
  folder, (one, two) = folders['dit'][1], folders['dit'][0]
  generates = f'generates {tiny.FRAMES} frames of {tiny.SIDE}x{tiny.SIDE} at {tiny.FPS} per second'
  for clip, has in ((slow, '16x16 at 5 per second'), (small, '32x16 at 8 per second')):
    data = scored.save_clips(tmp_path / clip.key, [clip])
    for options, name in (
      ([f'--run={baseline}'], f'run {baseline}'),
      ([f'--folder={folder}'], str(folder)),
      ([f'--stage1={one}', f'--stage2={two}'], f'run {two}'),
    ):
      assert refused(*options, f'--clips={data}', f'--out={tmp_path}/new') == (
        f'{name} {generates}, but clip {clip.key} has {tiny.FRAMES} frames of {has}: score clips of'
        ' that size and frame rate'
      )


def test_a_clip_without_objects(refused, baseline, tmp_path):
  clip = scored.clip('bare', 0, tiny.FRAMES, (tiny.SIDE, tiny.SIDE))
  bare = type(clip)(**{**vars(clip), 'ids': clip.ids * 0})
  data = scored.save_clips(tmp_path / 'clips', [bare])
  said = refused(f'--run={baseline}', f'--clips={data}', f'--out={tmp_path}/new')
  assert re.match('clip bare cannot be evaluated on: the mask has no object', said)
