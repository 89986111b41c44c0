"""The studio's backends compute what the commands compute, with progress, and can be stopped."""

import os
import re
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from tests.helpers import exported, tiny
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.inference.request import Sampling
from ttm_jax.studio.backends import Cancelled, Limits
from ttm_jax.studio.exported_networks import ExportedNetworks
from ttm_jax.studio.jax_runs import JaxRuns

LIMITS = Limits(tiny.FRAMES, tiny.SIDE, tiny.SIDE, tiny.FPS, 3, exported.STEPS, exported.STEPS)


@pytest.fixture(scope='module')
def runs(folders):
  return folders['dit'][0]


@pytest.fixture(scope='module')
def jax_runs(runs):
  return JaxRuns(*map(str, runs))


@pytest.fixture(scope='module')
def networks(folders):
  return ExportedNetworks(str(folders['dit'][1]))


class Steps:
  """Remember progress; raise an error at a step."""

  def __init__(self, stop=None):
    self.seen, self.stop = [], stop

  def __call__(self, done, total):
    self.seen.append((done, total))
    if done == self.stop:
      raise Cancelled


def test_the_runs_compute_what_the_pipeline_does(jax_runs, runs):
  assert jax_runs.limits == LIMITS and jax_runs.name == 'stage1 + stage2'
  assert jax_runs.command[3:] == ['--stage1', str(runs[0]), '--stage2', str(runs[1])]
  pipeline = Pipeline(Stage(runs[0], STAGE1), Stage(runs[1], STAGE2))
  request, steps = exported.request(), Steps()
  ids = jax_runs.propose(request, Sampling(3), steps)
  assert (ids == pipeline.trajectories([request], 3)[0]).all()
  assert steps.seen[0] == (0, 10) and steps.seen[-1] == (10, 10) and len(steps.seen) == 11
  moved = exported.moved(request.mask)
  video = jax_runs.render(request, moved, Sampling(5), Steps())
  assert (video == pipeline.videos([request], moved[None], 5)[0]).all()


def test_fewer_steps(jax_runs, runs):
  request, steps = exported.request(), Steps()
  moved = exported.moved(request.mask)
  video = jax_runs.render(request, moved, Sampling(5, 2), steps)
  alone = Pipeline(None, Stage(runs[1], STAGE2, steps=2))
  assert (video == alone.videos([request], moved[None], 5)[0]).all()
  assert steps.seen[-1] == (2, 2)


def test_the_folder_computes_what_its_pipeline_does(networks, folders):
  assert networks.limits == LIMITS
  import torch

  request, steps = exported.request(), Steps()
  pipe = exported.pipe(folders['dit'][1])
  given = exported.arguments()
  ids = networks.propose(request, Sampling(3), steps)
  del given['object_prompts']
  generator = torch.Generator('cpu').manual_seed(3)
  assert (ids == pipe.generate_trajectory(**given, generator=generator)[0]).all()
  assert steps.seen[-1] == (10, 10)
  moved = exported.moved(request.mask)
  video = networks.render(request, moved, Sampling(5, 2), Steps())
  generator = torch.Generator('cpu').manual_seed(5)
  frames = pipe(
    **exported.arguments(), trajectory=moved, num_inference_steps=2, generator=generator
  ).frames[0]
  assert (video == np.stack([np.asarray(frame) for frame in frames])).all()


@pytest.mark.parametrize('name', ['jax_runs', 'networks'])
def test_sampling_stops_when_it_is_cancelled(name, request):
  backend, steps = request.getfixturevalue(name), Steps(stop=3)
  asked = exported.request()
  with pytest.raises(Cancelled):
    backend.render(asked, exported.moved(asked.mask), Sampling(5), steps)
  assert max(done for done, _ in steps.seen) <= 4, 'not all steps were taken'
  again = backend.render(asked, exported.moved(asked.mask), Sampling(5), Steps())
  assert again.shape == (tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3), 'it works again'


def test_without_stage_1(runs):
  backend = JaxRuns(None, str(runs[1]))
  assert backend.limits.motion_steps == 0
  with pytest.raises(InputError, match='no stage 1'):
    backend.propose(exported.request(), Sampling(0), Steps())


APP = """
import runpy, sys

class Nothing:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'ttm_jax'):
      raise ImportError(f'{name} is not here')

sys.meta_path.insert(0, Nothing())
sys.argv = ['app.py', '--port', '0', '--offline']
runpy.run_path('app.py', run_name='__main__')
"""


def test_app_py_of_an_exported_folder(folders, tmp_path):
  """The studio of the folder generates without JAX and without this package."""
  folder = folders['dit'][1]
  before = {path.name for path in folder.iterdir()}
  kept = {name: os.environ[name] for name in ('PATH', 'HOME') if name in os.environ}
  process = subprocess.Popen(
    [sys.executable, '-c', APP], cwd=folder, env=kept, stdout=subprocess.PIPE, text=True
  )
  try:
    address = re.search(r'http://\S+', process.stdout.readline())[0]
    patient = httpx.HTTPTransport(retries=6)  # The address is printed just before it is served.
    with httpx.Client(base_url=f'{address}/studio/api/', timeout=60, transport=patient) as client:
      started = client.post('session').json()
      client.headers['X-Session'] = started['token']
      assert started['about']['frames'] == tiny.FRAMES
      client.post('example', json={'number': 0})
      assert client.post('change/propose', json={'count': 1}).status_code == 200
      for _ in range(600):
        (job,) = client.get('jobs').json()
        if job['status'] not in ('waiting', 'running'):
          break
        time.sleep(0.1)
      assert job['status'] == 'done', job
    page = httpx.get(f'{address}/studio/web/main.js')
    assert page.status_code == 200 and 'ttm-studio' in page.text
  finally:
    process.terminate()
    process.wait(20)
  assert {path.name for path in folder.iterdir()} == before, 'nothing is written there'
