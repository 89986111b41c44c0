"""All commands check their outputs before the work, and keep their inputs."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from data_tools import describe, import_folder, prepare
from tests.helpers import cli, exported, tiny
from tests.helpers.sentences import last_sentence, sentence
from ttm_jax import evaluate, plan, trajectory
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.metrics.evaluation import Evaluation, check, mean, video_row
from ttm_jax.report import pair_report
from ttm_jax.report.results import charts, read_metrics


@pytest.fixture
def no_work(monkeypatch):
  """Fail if a network is loaded."""

  def worked(*args, **options):
    raise AssertionError('a network was loaded')

  monkeypatch.setattr(Stage, '__init__', worked)


@pytest.fixture
def evaluated(clips, folders, monkeypatch):
  """Run `evaluate` on untrained runs."""
  one, two = folders['dit'][0]

  def run(*options):
    argv = ['evaluate', f'--stage1={one}', f'--stage2={two}', f'--clips={clips}', *options]
    monkeypatch.setattr(sys, 'argv', argv)
    evaluate.main()

  return run


def refusal(run, *options):
  with pytest.raises(InputError) as caught:
    run(*options)
  return str(caught.value)


@pytest.mark.parametrize(
  'option, said',
  [
    ('--seed=-1', '--seed -1: must be from 0 to 9223372036854775807'),
    (f'--seed={10**19}', f'--seed {10**19}: must be from 0'),
    ('--steps=0', '--steps 0: must be at least 1'),
    ('--count=0', '--count 0: must be at least 1; leave it out for all clips'),
    ('--count=-3', '--count -3: must be at least 1'),
  ],
)
def test_evaluation_refuses_numbers_out_of_range(evaluated, no_work, tmp_path, option, said):
  assert refusal(evaluated, option, f'--out={tmp_path}/new').startswith(said)
  assert not (tmp_path / 'new').exists()


def test_evaluation_finds_a_place_that_refuses_before_it_generates(
  evaluated, no_work, clips, tmp_path
):
  (tmp_path / 'file').write_text('')
  assert refusal(evaluated, f'--out={tmp_path}/file') == (
    f'cannot write {tmp_path}/file/report.html (not a directory): name another --out'
  )
  (tmp_path / 'out' / 'samples.gif').mkdir(parents=True)
  assert refusal(evaluated, f'--out={tmp_path}/out') == (
    f'cannot write {tmp_path}/out/samples.gif (there is a folder of that name): name another --out'
  )
  if os.path.isdir('/sys/kernel'):  # A file system that takes no files, even from root.
    assert 'cannot write /sys/kernel/new/report.html (' in refusal(
      evaluated, '--out=/sys/kernel/new'
    )


def test_evaluation_keeps_the_report_of_the_dataset(evaluated, no_work, clips, tmp_path):
  """`prepare` writes a report.html into the folder of the clips."""
  data = tmp_path / 'data'
  shutil.copytree(clips, data)
  (data / 'report.html').write_text('of the preparation')
  said = refusal(evaluated, f'--clips={data}', f'--out={data}')
  assert said == (
    f'{data}/report.html would overwrite {data}/report.html (the same place), which --clips reads:'
    ' name another --out'
  )
  assert (data / 'report.html').read_text() == 'of the preparation'


def planted(clips):
  """Return an evaluation of clips that shows the clips themselves."""
  videos, ids = [clip.video for clip in clips], [clip.ids for clip in clips]
  row = {'iou': 0.5, 'direction': float('nan'), 'all_motions': 1.0}
  video = {
    'psnr': 20.0,
    'ssim': float('nan'),
    'adherence': 0.5,
    'direction': 0.1,
    'all_motions': 0.2,
  }
  return Evaluation({'a': row}, {'b': video}, clips, ids, videos, videos)


def test_an_evaluation_writes_what_it_can(evaluated, clips, tmp_path, monkeypatch, capsys):
  held_out = Clips(clips, 'validation')
  monkeypatch.setattr(pair_report, 'run', lambda pipeline, some, seed, batch: planted(list(some)))

  def full(*args, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pair_report, 'write_report', full)
  said = refusal(evaluated, f'--out={tmp_path}/out', '--count=2')
  assert said == (
    f'cannot write {tmp_path}/out/report.html (No space left on device): free space or name another'
    ' --out; the rest is written'
  )
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['metrics.json', 'samples.gif']
  figures = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
  assert figures['clips'] == min(2, len(held_out)) and figures['motion']['a']['direction'] is None
  assert 'Trajectories' in capsys.readouterr().out  # The tables are printed anyway.


def test_clips_are_checked_before_any_is_generated(folders, clips):
  one, two = folders['dit'][0]
  pipeline = Pipeline(Stage(one, STAGE1), Stage(two, STAGE2))
  clip = Clips(clips, 'validation')[0]
  bare = type(clip)(**{**vars(clip), 'ids': clip.ids * 0})
  with pytest.raises(InputError, match=f'clip {clip.key} cannot be evaluated on: the mask has no'):
    check(pipeline, [clip, bare])
  with pytest.raises(InputError, match='there is no clip to evaluate on'):
    check(pipeline, [])


@pytest.mark.filterwarnings('error')
def test_means_of_nothing_are_not_numbers(clips):
  assert mean([1.0, float('nan'), 2.0]) == 1.5
  assert np.isnan(mean([])) and np.isnan(mean([float('nan')]))
  clip = Clips(clips, 'validation')[0]
  small = type(clip)(**{**vars(clip), 'video': clip.video[:, :8, :8], 'ids': clip.ids[:, :8, :8]})
  row = video_row([small], [small.video], [small.ids * 0])
  # Frames smaller than the window of SSIM, absent objects, an exact video.
  assert np.isnan(row['ssim']) and np.isnan(row['adherence']) and row['psnr'] == float('inf')


def test_curves_of_damaged_metrics(tmp_path):
  """A killed run leaves half a line; a copied one may have none."""
  assert read_metrics(tmp_path) == []
  lines = [
    *(b'{"step": 1, "train/loss": 2.0}', b'{"step": 2, "tra', b'\x00\xff', b'[1]', b'7', b''),
    *(b'{"train/loss": 1}', b'{"step": "3"}', b'{"step": 4, "train/loss": "x"}'),
    *(b'{"step": 5, "train/loss": NaN}', b'[' * 100_000, b'{"step": 6, "train/loss": 1.0}'),
  ]
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join(lines))
  assert [line['step'] for line in read_metrics(tmp_path)] == [1, 4, 5, 6]
  (chart,) = charts({'stage 1': tmp_path})
  assert [step for step, _ in chart.series['training']] == [1, 5, 6]


# The other commands.


def test_training_keeps_what_it_reads(latents, stage1_command, tmp_path):
  data = tmp_path / 'data'
  shutil.copytree(latents, data)
  before = {p: p.read_bytes() for p in data.rglob('*') if p.is_file()}
  said = sentence(cli.run(*tiny.train_command('demo_stage1', data, data)))
  assert said == (
    f'{data}/context would overwrite {data}/context (the same place), which --config.data.path'
    ' reads: name another --workdir'
  )
  assert {p: p.read_bytes() for p in data.rglob('*') if p.is_file()} == before
  run = tmp_path / 'run'
  said = sentence(cli.run(*tiny.train_command('demo_stage1', run, data, init_from=str(run))))
  assert '/nope' not in said and said.startswith(f'{run} is not a run directory')
  # A run may be in the folder of its dataset.
  ended = cli.run(*tiny.train_command('demo_stage1', data / 'run', data, train__steps=1))
  assert ended.code == 0, ended.err


def test_training_without_a_workdir_names_one_by_date(latents, tmp_path):
  command = tiny.train_command('demo_stage1', tmp_path / 'run', latents, train__steps=1)
  command = [part for part in command if not part.startswith('--workdir')]
  ended = cli.run(*command, env={'ELSEWHERE': str(tmp_path)}, before=cli.elsewhere)
  assert ended.code == 0, ended.err
  (run,) = (tmp_path / 'runs').iterdir()
  assert run.name.startswith('demo_stage1-') and (run / 'config.json').is_file()


def test_encoding_keeps_the_clips(clips, tmp_path):
  data = tmp_path / 'data' / 'clips'
  shutil.copytree(clips, data)
  for out, where in ((data, '(the same place)'), (data.parent, 'inside it')):
    said = last_sentence(cli.run(*tiny.encode_command(data, out, f'--codec={tiny.CODEC}')))
    assert said == f'{out} would overwrite {data} {where}, which --clips reads: name another --out'


def test_an_import_keeps_its_source(tmp_path, capsys):
  (tmp_path / 'source').mkdir()
  (tmp_path / 'captions.json').write_text('{}')
  given = [f'--source={tmp_path}/source', f'--captions={tmp_path}/captions.json', '--fps=8']
  for out in (tmp_path / 'source', tmp_path):
    with pytest.raises(SystemExit):
      import_folder.main([*given, '--frames=4', '--size=16', f'--out={out}'])
    assert f'error: {out} would overwrite {tmp_path}/source' in capsys.readouterr().err


def test_a_preparation_keeps_its_source(tmp_path):
  """OUT.incomplete is cleared only if it holds one of our jobs: it may be a user's folder."""
  source = tmp_path / 'clips.incomplete'
  source.mkdir()
  (source / 'a.mp4').write_bytes(b'film')
  given = [f'--source={source}', '--clip=4x16x16', '--fps=8']
  for out, where in (('clips', 'clips.incomplete'), ('clips.incomplete', 'clips.incomplete')):
    said = refusal(prepare.main, [*given, f'--out={tmp_path}/{out}'])
    assert said.startswith(f'{tmp_path}/{where} would overwrite {source} (the same place)')
  (source / 'videos').mkdir()
  said = refusal(prepare.main, [*given, f'--source={source}/videos', f'--out={tmp_path}/clips'])
  assert f'{source} would overwrite {source}/videos inside it, which --source reads' in said
  assert (source / 'a.mp4').read_bytes() == b'film'


def test_a_description_keeps_its_photo(tmp_path, monkeypatch, capsys):
  """As in the example of its help: photo.png described in photo.safetensors, beside it."""
  monkeypatch.chdir(tmp_path)
  asked = exported.request()
  Image.fromarray(asked.picture).save('photo.png')
  trajectory.write_folder('masks', asked.mask[None])
  given = ['--segmentation=masks/00000.png', '--prompt=A thing moves.', '--object=1: a circle']
  before = (tmp_path / 'photo.png').read_bytes()
  describe.main(['--image=photo.png', *given, '--out=photo.safetensors'])
  assert (tmp_path / 'photo.png').read_bytes() == before
  said = capsys.readouterr().out.splitlines()
  assert said[-2:] == ['photo.safetensors', 'photo_found.png']
  found = (tmp_path / 'photo_found.png').read_bytes()
  for options in (['--image=photo_found.png'], ['--image=photo.png', '--out=photo.PNG']):
    with pytest.raises(SystemExit):
      describe.main([*given, '--out=photo.safetensors', *options])
  assert 'photo_found.png would overwrite photo_found.png' in capsys.readouterr().err
  assert (tmp_path / 'photo_found.png').read_bytes() == found


def test_a_plan_keeps_its_configuration(tmp_path):
  config = tmp_path / 'stage1_dit.py'
  shutil.copy(tiny.ROOT / 'configs' / 'stage1_dit.py', config)
  before = config.read_bytes()
  place = [f'--config={config}', '--topology=h100x8']
  said = sentence(cli.run('ttm_jax.plan', *place, f'--json={config}'))
  assert said.startswith(f'{config} would overwrite {config} (the same place), which --config')
  said = sentence(cli.run('ttm_jax.plan', *place, f'--json={config}/plan.json'))
  assert said == f'cannot write {config}/plan.json (not a directory): name another --json'
  assert config.read_bytes() == before and plan.main


def test_an_export_keeps_what_it_reads(folders, tmp_path):
  one, two = folders['dit'][0]
  runs = tmp_path / 'runs'
  shutil.copytree(one, runs / 'one')
  said = sentence(
    cli.run('ttm_jax.export', f'--stage1={runs}/one', f'--stage2={two}', f'--out={runs}')
  )
  assert said.startswith(f'{runs} would overwrite {runs}/one/config.json inside it, which --stage1')


def test_a_demo_checks_its_place(tmp_path):
  (tmp_path / 'file').write_text('')
  for place, reason in ((tmp_path / 'file', 'there is a file of that name'),):
    said = sentence(cli.run('ttm_jax.demo', f'--workdir={place}'))
    assert said == f'cannot write {place} ({reason}): name another --workdir'
  assert last_sentence  # The same rules as for bad input.


# Extras.

ABSENT = ('torch', 'diffusers')


class Absent:
  """Hides every module of PyTorch."""

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ABSENT:
      raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def no_pytorch() -> None:
  """Simulate a host without the extra `torch` in a process."""
  for name in [name for name in sys.modules if name.split('.')[0] in ABSENT]:
    del sys.modules[name]
  sys.meta_path.insert(0, Absent())


def test_a_missing_extra_is_named(tmp_path):
  ended = cli.run(
    'ttm_jax.pytorch.generate', tmp_path, f'--out={tmp_path}/o.mp4', before=no_pytorch
  )
  assert sentence(ended) == (
    "No module named 'torch': install it with pip install 'ttm_jax[torch]'"
  )


def test_a_bucket_without_its_package_is_named(capsys):
  with pytest.raises(SystemExit) as ended, front_door():
    try:
      raise ModuleNotFoundError("No module named 'gcsfs'", name='gcsfs')
    except ModuleNotFoundError as error:
      raise ImportError('Please install gcsfs to access Google Storage') from error
  assert ended.value.code == 2
  said = capsys.readouterr().err
  assert said == (
    'error: Please install gcsfs to access Google Storage: install it with pip install'
    " 'ttm_jax[gcs]'\n"
  )
  with pytest.raises(ImportError), front_door():
    raise ImportError('cannot import name x from y')
