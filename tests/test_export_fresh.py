"""Run an exported folder in a fresh environment, with neither JAX nor this package."""

import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import exported
from ttm_jax.exporting.folder import export

CONSTRAINTS = Path(__file__).parents[1] / 'constraints.txt'

SCRIPT = """
import importlib.util
import sys
for name in ('jax', 'flax', 'ttm_jax', 'av'):
  assert importlib.util.find_spec(name) is None, name
import numpy as np
import torch
from diffusers import DiffusionPipeline

folder, given, result = sys.argv[1:]
arrays = np.load(given)
pipe = DiffusionPipeline.from_pretrained(
  folder, custom_pipeline='pipeline', trust_remote_code=True, torch_dtype=torch.bfloat16
)
output = pipe(
  arrays['image'], 'A red circle and a blue star.', arrays['segmentation'],
  generator=torch.Generator().manual_seed(0), output_type='np',
)
np.savez(result, frames=output.frames, trajectory=output.trajectory)
"""


@pytest.mark.slow
def test_a_fresh_environment_runs_it(tmp_path):
  """Install what the model card names from the package index; takes minutes."""
  venv.create(tmp_path / 'venv', with_pip=True)
  python = tmp_path / 'venv' / 'bin' / 'python'

  def run(*command):
    ended = subprocess.run(
      list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0, ended.stderr

  kept = {k: v for k, v in os.environ.items() if k.startswith('PIP_') or k in ('PATH', 'HOME')}
  environment = {**kept, 'HF_HOME': str(tmp_path / 'home'), 'HF_HUB_OFFLINE': '1'}
  for preset in exported.NAMES:
    export(*exported.make_runs(tmp_path / preset, preset), tmp_path / preset / 'folder')
  packages = exported.card_packages(tmp_path / preset / 'folder')
  run(python, '-m', 'pip', 'install', '-q', '-c', CONSTRAINTS, *packages)
  (tmp_path / 'script.py').write_text(SCRIPT)
  request = exported.request()
  np.savez(tmp_path / 'given.npz', image=request.picture, segmentation=request.mask)
  for preset in exported.NAMES:
    result = tmp_path / f'{preset}.npz'
    run(python, 'script.py', tmp_path / preset / 'folder', 'given.npz', result)
    with np.load(result) as made:
      assert np.isfinite(made['frames']).all() and made['frames'].std() > 0.01
      np.testing.assert_array_equal(made['trajectory'][0, 0], request.mask)
