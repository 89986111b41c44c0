"""Sampling on eight devices gives the videos of one device."""

import argparse
import json
import subprocess
import sys

import jax
import pytest

from tests.helpers import cli, exported
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE2, Stage
from ttm_jax.inference.sampling_flags import mesh_sizes_of
from ttm_jax.parallel.mesh import make_mesh

CASES = [
  ('dit', [{'data': 2, 'fsdp': 2, 'tensor': 2}]),
  pytest.param(
    'dit', [{'data': 4, 'tensor': 2}, {'fsdp': 4, 'sequence': 2}], marks=pytest.mark.slow
  ),
  pytest.param('unet', [{'fsdp': 4, 'tensor': 2}], marks=pytest.mark.slow),
]


@pytest.mark.parametrize('preset, meshes', CASES)
def test_eight_devices_agree_with_one(preset, meshes, tmp_path):
  exported.make_runs(tmp_path, preset)
  command = [sys.executable, '-m', 'tests.helpers.sharded_sampling', str(tmp_path)]
  command += map(json.dumps, meshes)
  ended = subprocess.run(command, cwd=cli.ROOT, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stderr
  found = json.loads(ended.stdout.splitlines()[-1])
  assert len(found) == len(meshes)
  for sizes, (largest, held) in found.items():
    assert largest <= 1  # Of 255: rounding.
    # A device has its share of the parameters.
    assert held < 0.75 or 'fsdp' not in sizes


def test_what_does_not_fit_a_mesh_is_refused(tmp_path):
  _, run = exported.make_runs(tmp_path, 'dit')
  one = make_mesh({}, jax.devices()[:1])
  stage = Stage(run, STAGE2, mesh=one)
  assert stage.sampler.params and stage.sampler.mesh is one
  stage.sampler.mesh = jax.sharding.AbstractMesh((2, 1, 1, 1), one.axis_names)
  with pytest.raises(InputError, match='1 videos at once do not divide over mesh axes data x fsdp'):
    stage.batch([exported.request()])


@pytest.mark.parametrize('text', ['data', 'data=', 'data=0', 'data=2,data=4', '=2', 'data=-1'])
def test_meshes_that_are_refused(text):
  with pytest.raises(
    InputError, match=f'--mesh {text}: write AXIS=SIZE,... such as fsdp=2,tensor=4'
  ):
    mesh_sizes_of(argparse.Namespace(mesh=text))
  assert mesh_sizes_of(argparse.Namespace(mesh='fsdp=2,tensor=4')) == {'fsdp': 2, 'tensor': 4}
