"""An ablation: its runs and commands, and scores over seeds and clips that are computed once."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics import ablation
from ttm_jax.metrics.ablation import GENERATED, TRUE, Ablation, score
from ttm_jax.report.ablation import write
from ttm_jax.scenes.lookalikes import LookalikeConfig, lookalike_scene
from ttm_jax.settings import load_config

CLIPS = [lookalike_scene(LookalikeConfig(), i) for i in range(5)]


def config(**changes):
  made = load_config('ablate_scenes')
  made.metrics = ('attributes', 'psnr')
  with made.unlocked():
    made.update(changes)
  return made


def plan(workdir, **changes):
  return Ablation.read(config(seeds=2, **changes), workdir, rows=['none', 'both'])


class StubStage:
  """Stage whose videos depend on the row: 'both' returns the truth, 'none' noise of its seed."""

  made: ClassVar[list[str]] = []

  def __init__(self, run, task):
    self.run, self.task = Path(run), task
    self.denoiser = self
    self.context = self

  @property
  def config(self):
    return type('Config', (), {'task': 'motion_to_video'})

  def trajectories(self, requests, seed):
    self.made.append(str(self.run))
    channels = (3,) if self.run.parent.name == 'stage1_flow' else ()
    return np.zeros((len(requests), 8, 48, 48, *channels), np.uint8)

  def generate(self, requests, seed, ids=None):
    self.made.append(str(self.run))
    found = [next(c for c in CLIPS if (c.video[0] == r.picture).all()) for r in requests]
    if self.run.parent.name == 'both':
      return np.stack([clip.video for clip in found])
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (len(found), 8, 48, 48, 3), np.uint8)


@pytest.fixture
def stub(monkeypatch):
  StubStage.made = []
  monkeypatch.setattr(ablation, 'Stage', StubStage)
  return StubStage


def test_runs_of_a_plan(tmp_path):
  made = plan(tmp_path)
  assert [run.name for run in made.runs] == [
    *('stage1/seed0', 'base/seed0', 'none/seed0', 'both/seed0'),
    *('base/seed1', 'none/seed1', 'both/seed1'),
  ]
  command = made.run('none', 1).command
  assert command[:2] == ['ttm_jax.train', '--config=demo_stage2']
  assert f'--workdir={tmp_path}/none/seed1' in command
  assert {'--config.seed=1', '--config.data.seed=1', '--config.model.masked_blocks=0'} < {*command}
  assert f'--config.data.path={tmp_path}/latents' in made.run('stage1', 0).command
  assert [name for name, _, _ in made.preparation] == ['clips', 'latents']
  assert f'--clips={tmp_path}/clips' in made.preparation[1][2]
  assert f'--config.init_from={tmp_path}/base/seed1' in command
  assert (made.run('base', 0).steps, made.run('none', 0).steps) == (1_200, 600)
  assert not made.run('none', 0).complete
  (tmp_path / 'none/seed0/checkpoints/600').mkdir(parents=True)
  assert made.run('none', 0).complete


def test_given_datasets_are_not_made(tmp_path):
  made = plan(tmp_path, clips='/data/clips', latents='/data/latents')
  assert made.clips == '/data/clips'
  assert not made.preparation
  assert '--config.data.path=/data/latents' in made.run('both', 0).command


def test_scores_of_rows_and_seeds_are_computed_once(tmp_path, stub):
  made = plan(tmp_path)
  for run in made.runs:
    run.folder.mkdir(parents=True)
  results = score(made, CLIPS, shown=2)
  assert {(row, source) for row, source, _ in results.scores} == {
    (row, source) for row in ('none', 'both') for source in (TRUE, GENERATED)
  }
  assert results.scores['both', TRUE, 'psnr'].shape == (2, 5, 1)
  assert (results.scores['both', TRUE, 'psnr'] == 100).all()
  noisy = results.scores['none', TRUE, 'psnr']
  assert (noisy < 12).all() and not np.array_equal(noisy[0], noisy[1])
  assert results.videos['both', TRUE].shape == (2, 8, 48, 48, 3)
  stub.made.clear()
  again = score(made, CLIPS, shown=2)
  assert not stub.made
  for key, values in results.scores.items():
    np.testing.assert_array_equal(again.scores[key], values)


def test_the_table_says_what_differs(tmp_path, stub):
  made = plan(tmp_path, stage1=())
  for run in made.runs:
    run.folder.mkdir(parents=True)
  write(made, score(made, CLIPS))
  text = (tmp_path / 'ablation.md').read_text()
  assert '| both | **1.000** [1.000, 1.000] | **100.000** [100.000, 100.000] |' in text
  assert '5 clips x 2 seeds, 8 frames of 48 x 48 at 8 fps' in text
  figures = json.loads((tmp_path / 'ablation.json').read_text())
  assert figures[TRUE]['both']['psnr']['value'] == [100, 100, 100]
  assert figures[TRUE]['both']['psnr']['difference'][1] > 85
  assert figures[TRUE]['none']['psnr']['difference'] is None
  noisy = figures[TRUE]['none']['psnr']['by_run']
  assert len(noisy) == 2 and noisy[0] != noisy[1] and max(noisy) < 12
  less = figures[TRUE]['both - none']['psnr']
  assert less['value'] == less['difference'] == figures[TRUE]['both']['psnr']['difference']
  assert less['by_run'] == pytest.approx([100 - x for x in noisy], abs=1e-4)
  assert 'Differences, videos from the true trajectory:' in text
  assert '| both - none | **' in text and 'cross' not in text
  assert (tmp_path / 'report.html').read_text().count('lookalike-0-') >= 5


def test_a_score_of_another_protocol_is_computed_again(tmp_path, stub):
  made = plan(tmp_path, stage1=())
  for run in made.runs:
    run.folder.mkdir(parents=True)
  score(made, CLIPS)
  stub.made.clear()
  made.metrics[1].protocol = 'another one'
  score(made, CLIPS)
  assert len(stub.made) == 4


@pytest.mark.parametrize('name', ['ablate_flow', 'ablate_flow_unet'])
def test_rows_can_have_a_stage_1_of_their_own(tmp_path, stub, name):
  made = Ablation.read(load_config(name), tmp_path, seeds=2, rows=['masks', 'flow'])
  assert [run.name for run in made.runs[:4]] == [
    *('stage1/seed0', 'stage1_flow/seed0', 'stage1/seed1', 'stage1_flow/seed1')
  ]
  assert [name for name, _, _ in made.preparation] == ['clips', 'latents', 'latents_flow']
  assert made.stage1('masks', 1).name == 'stage1/seed1'
  assert made.stage1('flow', 0).name == 'stage1_flow/seed0'
  for run in made.runs:
    data = [part for part in run.command if part.startswith('--config.data.path=')]
    kind = 'latents_flow' if 'flow' in run.row else 'latents'
    assert data == [f'--config.data.path={tmp_path}/{kind}']


def test_optical_flow_is_compared_with_the_trajectory_of_the_clip(tmp_path, stub):
  changes = {'metrics': ('foreground_iou',), 'rows': (('both', 'demo_stage2'),), 'base': ()}
  changes['differences'] = ()
  changes['stage1'] = (('stage1_flow', 'demo_stage1'),)
  made = Ablation.read(config(seeds=1, compare_with='truth', **changes), tmp_path)
  for run in made.runs:
    run.folder.mkdir(parents=True)
  scores = score(made, CLIPS).scores
  same = [scores['both', source, 'foreground_iou'] for source in (TRUE, GENERATED)]
  np.testing.assert_array_equal(*same)
  made = Ablation.read(config(seeds=1, **changes), tmp_path)
  with pytest.raises(InputError, match="row 'both': generated optical flow has no objects"):
    score(made, CLIPS)


@pytest.mark.parametrize(
  'change, rows, message',
  [
    ({'stage1_of': (('both', 'stage'),)}, None, "row 'both' takes stage 1 'stage'"),
    ({'compare_with': 'clip'}, None, "must be 'given' or 'truth', got 'clip'"),
    ({'differences': (('both', 'non'),)}, None, "config.differences names 'non'.*there are none"),
    ({}, ['bothh'], r"no row 'bothh' \(did you mean \"?both\"?\?\)|no row 'bothh'"),
    ({'seeds': 0}, None, 'at least 1 seed and 1 clip, got 0 and 256'),
    ({'metrics': ('psn',)}, None, 'unknown metric "psn"'),
  ],
)
def test_bad_plans_are_refused(tmp_path, change, rows, message):
  with pytest.raises(InputError, match=message):
    Ablation.read(config(**change), tmp_path, rows=rows)
