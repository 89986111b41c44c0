"""Shared by all tests: quick compilation, a tiny dataset, tiny runs trained once per session."""

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers import cli, tiny

# Programs run for milliseconds here, and optimized compilation would take most of the time. These
# flags also apply to the processes that tests start.
QUICK = '--xla_backend_optimization_level=0'
if metadata.version('jaxlib').startswith('0.10.'):  # Later versions do not know the flag and exit.
  QUICK += ' --xla_cpu_use_fusion_emitters=false'


def pytest_configure(config: pytest.Config) -> None:
  """Set the flags before anything imports JAX."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ['XLA_FLAGS'] = f'{QUICK} {os.environ.get("XLA_FLAGS", "")}'.strip()
  # Share compiled programs between processes and sessions.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(config.cache.mkdir('xla'))
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


WORKER_GB = 2.5  # Memory of a worker with the processes that its tests start.


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
  """Return the workers of `-n auto`: one per core, fewer if memory is short."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9
  return max(1, min(cores, int(free / WORKER_GB)))


@pytest.fixture(scope='module', autouse=True)
def bounded_memory() -> Iterator[None]:
  """Drop what JAX compiled and traced after each module."""
  yield
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()
  gc.collect()


@pytest.fixture(scope='session')
def tiny_model(tmp_path_factory) -> Callable[..., Path]:
  """Return the folder of a model of `tiny_models`, made once, by the name of its function."""
  from tests.helpers import tiny_models

  root = tmp_path_factory.mktemp('models')

  @functools.cache
  def make(name: str, **options) -> Path:
    key = f'{name}{"".join(map(str, options.values()))}'.replace(' ', '')
    return getattr(tiny_models, name)(root / key, **options)

  return make


@pytest.fixture(scope='session')
def clips(tmp_path_factory) -> Path:
  """A clips dataset of procedural scenes."""
  path = tmp_path_factory.mktemp('clips') / 'scenes'
  made = cli.run(*tiny.scenes_command(path))
  assert made.code == 0, made.err
  return path


@pytest.fixture(scope='session')
def latents(clips, tmp_path_factory) -> Path:
  """The same clips, encoded by a linear codec."""
  return encoded(clips, tmp_path_factory, f'--codec={tiny.CODEC}')


@pytest.fixture(scope='session')
def unet_latents(clips, tmp_path_factory) -> Path:
  """The same clips, encoded for the U-Net."""
  return encoded(clips, tmp_path_factory, f'--codec={tiny.UNET_CODEC}', '--preset=unet')


def encoded(clips: Path, folders: pytest.TempPathFactory, *options: str) -> Path:
  """A latents dataset of the clips."""
  path = folders.mktemp('latents') / 'scenes'
  made = cli.run(*tiny.encode_command(clips, path, *options))
  assert made.code == 0, made.err
  return path


@pytest.fixture(scope='session')
def stage1_command(latents):
  """The command that trains stage 1 into a directory, for interrupted and uninterrupted runs."""
  return lambda path: tiny.train_command(
    'demo_stage1', path, latents, train__steps=100, train__checkpoint_every=20
  )


@pytest.fixture(scope='session')
def stage1(stage1_command, tmp_path_factory) -> Path:
  """An uninterrupted run of stage 1."""
  path = tmp_path_factory.mktemp('runs') / 'stage1'
  ended = cli.run(*stage1_command(path))
  assert ended.code == 0, ended.err
  return path


@pytest.fixture(scope='session')
def stage2(latents, tmp_path_factory) -> Path:
  """A run of stage 2, with validation loss and samples."""
  path = tmp_path_factory.mktemp('runs') / 'stage2'
  changes = {'train__steps': 40, 'train__evaluate_every': 20, 'train__sample_every': 40}
  ended = cli.run(*tiny.train_command('demo_stage2', path, latents, **changes))
  assert ended.code == 0, ended.err
  return path


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
  """For each preset, the runs and the folder exported from them in float32."""
  from tests.helpers import exported
  from ttm_jax.exporting.folder import export

  made = {}
  for preset in exported.NAMES:
    path = tmp_path_factory.mktemp(preset)
    runs = exported.make_runs(path, preset)
    export(*runs, path / 'folder', 'fp32')
    made[preset] = runs, path / 'folder'
  return made
