"""Exported students against JAX: videos of few steps, and guidance scales as inputs."""

import json
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.helpers import exported, tiny
from ttm_jax.codecs.base import to_uint8
from ttm_jax.configs.distill import few_steps
from ttm_jax.errors import InputError
from ttm_jax.exporting.folder import export
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.request import Sampling
from ttm_jax.studio.exported_networks import ExportedNetworks
from ttm_jax.studio.jax_runs import JaxRuns

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from tests.helpers import pytorch_parity as parity  # noqa: E402

RANGES = {'visual_scale': (1.0, 3.0), 'text_scale': (1.0, 10.0)}
CHOSEN = {'visual_scale': 2.5, 'text_scale': 4.0}
FEW = {'steps4': 4, 'steps2': 2, 'steps1': 1}
KINDS = (*FEW, 'scales')


def student(preset, number, kind):
  """Return the configuration of a student: of few steps, or with guidance scales as inputs."""
  settings = exported.config(preset, number)
  few_steps(settings.process, FEW.get(kind, 4))
  taken = kind == 'scales'
  settings.distill = ConfigDict(
    {
      'method': 'guidance' if taken else 'dmd',
      'visual_scale': 1.5,
      'text_scale': 2.0,
      'rescale': 0.5,
      'visual_range': RANGES['visual_scale'] if taken else (),
      'text_range': RANGES['text_scale'] if taken else (),
    }
  )
  scales = {'visual_scale': 1.5, 'text_scale': 2.0} if taken else dict.fromkeys(RANGES, 1.0)
  settings.sample.update({**scales, 'rescale': 0.0})
  return settings


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Return both runs of students and their exported folder, by preset and kind."""
  root, found = tmp_path_factory.mktemp('students'), {}

  def make(preset, kind):
    if (preset, kind) not in found:
      folder, where, runs = root / f'{preset}-{kind}', exported.context(preset), []
      folder.mkdir()
      for number in (exported.STAGE1, exported.STAGE2):
        settings = student(preset, number, kind)
        params = exported.parameters(settings, where, number)
        of_run = {'student': params, 'critic': params} if kind in FEW else {'student': params}
        runs.append(exported.save_run(folder / f'run{number}', settings, where, of_run))
      export(*runs, folder / 'exported', 'fp32')
      found[preset, kind] = runs, folder / 'exported'
    return found[preset, kind]

  return make


def noise(pipe, stage, seed):
  """Return the initial noise of a stage in JAX."""
  c, *grid = pipe.config.video['latents']
  return parity.channels_first(jax.random.normal(stage.key(seed), (1, *grid, c)))


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('preset', exported.NAMES)
def test_videos_are_those_of_ours(made, preset, kind, capsys):
  """Up to one level of 255, of both stages."""
  (one, two), folder = made(preset, kind)
  given = CHOSEN if kind == 'scales' else {}
  pipe, request = exported.pipe(folder), exported.request()
  ours = Pipeline(Stage(one, STAGE1, sample=given), Stage(two, STAGE2, sample=given))
  last = {}

  def seen(pipeline, step, timestep, tensors):
    last.update(tensors, steps=step + 1)

  arguments = {k: v for k, v in exported.arguments().items() if k != 'object_prompts'}
  begin = noise(pipe, ours.stage1, 5)
  pipe.generate_trajectory(**arguments, **given, motion_latents=begin, callback_on_step_end=seen)
  decoded = pipe.codec.decode(last['latents'], tiny.FRAMES).sample
  painted = ours.stage1.generate([request], 5)
  ids = exported.moved(request.mask)
  wanted = ours.videos([request], ids[None], 6)
  output = pipe(
    **exported.arguments(),
    **given,
    trajectory=ids,
    latents=noise(pipe, ours.stage2, 6),
    output_type='np',
  )
  differences = [
    np.abs(to_uint8(parity.channels_last(decoded)).astype(int) - painted).max(),
    np.abs(np.round(output.frames * 255) - wanted).max(),
  ]
  steps = FEW.get(kind, 4)
  assert last['steps'] == ours.stage2.sampler.passes == steps
  with capsys.disabled():
    print(f'\n{preset}, {kind}: largest difference in levels of 255: {differences}')
  assert max(differences) <= 1 and wanted.std() > 10 and painted.std() > 10


def test_scales_of_an_exported_student(made, tmp_path):
  (one, two), folder = made('dit', 'scales')
  index = json.loads((folder / 'model_index.json').read_text())
  for stage in ('stage1', 'stage2'):
    assert index['stages'][stage]['scale_ranges'] == {k: list(v) for k, v in RANGES.items()}
  assert '| scales that the network takes | 1 to 3, 1 to 10 |' in (folder / 'README.md').read_text()
  pipe, given = exported.pipe(folder), exported.arguments()
  given['trajectory'] = exported.moved(given['segmentation'])
  with pytest.raises(InputError) as error:
    pipe(**given, text_scale=12.0)
  assert str(error.value) == (
    'stage2 is a student that takes guidance scales as inputs, and text_scale 12 is not in 1 to 10:'
    ' choose a scale in this range'
  )
  with pytest.raises(InputError, match='made for any number of steps: leave out rescale'):
    pipe(**given, guidance_rescale=0.5)
  # The studio offers them.
  for backend in (JaxRuns(str(one), str(two)), ExportedNetworks(str(folder))):
    limits = backend.limits
    assert limits.motion_scales == limits.video_scales == RANGES and not limits.fixed_steps
    videos = [
      backend.render(
        exported.request(), given['trajectory'], Sampling(0, 2, scales), lambda *_: None
      )
      for scales in ({}, CHOSEN)
    ]
    assert np.abs(videos[0].astype(int) - videos[1]).max() > 0


def test_a_student_of_few_steps_is_refused_others(made):
  (one, two), folder = made('dit', 'steps4')
  for backend in (JaxRuns(str(one), str(two)), ExportedNetworks(str(folder))):
    assert backend.limits.fixed_steps and backend.limits.video_scales == {}
    request = exported.request()
    with pytest.raises(InputError, match='made for 4 steps without guidance: leave out steps'):
      backend.render(request, exported.moved(request.mask), Sampling(0, 2), lambda *_: None)


def test_folders_of_before_have_no_ranges(made, tmp_path):
  _, folder = made('dit', 'steps4')
  copied = tmp_path / 'copied'
  shutil.copytree(folder, copied)
  path = copied / 'model_index.json'
  index = json.loads(path.read_text())
  for settings in index['stages'].values():
    del settings['scale_ranges']
  path.write_text(json.dumps(index))
  config = copied / 'stage2' / 'config.json'
  values = json.loads(config.read_text())
  assert values.pop('guidance_inputs') is False
  config.write_text(json.dumps(values))
  from ttm_jax.exported_folder import load
  from ttm_jax.presets import model_config
  from ttm_jax.pytorch import TTMPipeline

  TTMPipeline.from_pretrained(copied, verify=False)
  (copied / 'model_index.json').unlink()  # Its checksums are those of the folder before.
  load(str(copied / 'stage2'), model_config(student('dit', exported.STAGE2, 'steps4')))
