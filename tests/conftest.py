"""Shared by all tests: quick compilation, a tiny dataset, tiny runs trained once per session."""

import contextlib
import ctypes
import functools
import gc
import math
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from importlib import metadata
from pathlib import Path

import filelock
import pytest

from tests.helpers import cli, tiny
from ttm_jax.parallel.compilation_cache import cpu_kind

# Programs run for milliseconds here, and optimized compilation would take most of the time. These
# flags also apply to the processes that tests start.
QUICK = '--xla_backend_optimization_level=0'
if metadata.version('jaxlib').startswith('0.10.'):  # Later versions do not know the flag and exit.
  QUICK += ' --xla_cpu_use_fusion_emitters=false'


def pytest_configure(config: pytest.Config) -> None:
  """Set the flags before anything imports JAX."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('MALLOC_ARENA_MAX', '2')  # Of the workers: threads share what is free.
  os.environ['XLA_FLAGS'] = f'{QUICK} {os.environ.get("XLA_FLAGS", "")}'.strip()
  if cores() < 2:  # An interpreted kernel and the program that calls it wait for each other.
    os.environ.setdefault('NPROC', '2')
  # Share compiled programs between processes, sessions and checkouts.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(compilation_cache())
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
  os.environ['JAX_COMPILATION_CACHE_MAX_SIZE'] = str(4 << 30)  # Bytes; the oldest programs go.


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
  """Import all tests without garbage collections, and keep later ones off what was imported.

  Looking through the million objects of PyTorch, transformers and JAX again and again takes half of
  the time of the imports, and a second each time later.
  """
  gc.disable()
  try:
    return (yield)
  finally:
    gc.freeze()
    gc.enable()


def compilation_cache() -> Path:
  """Return the folder of compiled programs in the user's cache, one for each kind of CPU."""
  root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  return Path(root) / 'ttm_jax' / f'tests-{cpu_kind()}'


def cores() -> int:
  """Return the number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


WORKER_GB = 2.5  # Memory of a worker with the processes that its tests start.


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
  """Return the workers of `-n auto`: one per core, fewer if memory is short."""
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9
  return max(1, min(cores(), int(free / WORKER_GB)))


GROWTH = 100e6  # Bytes by which a worker may grow before it drops what it can.
after = {'trim': 0.0, 'drop': 0.0}  # Memory of this worker after the last of each.


def pytest_runtest_logfinish() -> None:
  """Return freed memory to the system after a test that took much, such as a compilation."""
  if resident() >= after['trim'] + GROWTH:
    trim()


@pytest.fixture(scope='module', autouse=True)
def bounded_memory() -> Iterator[None]:
  """Drop what JAX compiled and traced once a module has left much, and free it at once."""
  yield
  if resident() < after['drop'] + GROWTH:
    return  # Looking through a million objects takes longer than many a module.
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()
  gc.collect()
  trim()
  after['drop'] = resident()


def trim() -> None:
  """Return memory that is free to the system, which takes milliseconds."""
  with contextlib.suppress(OSError, AttributeError):  # Other C libraries have no such function.
    ctypes.CDLL(None).malloc_trim(0)
  after['trim'] = resident()


def resident() -> float:
  """Return the bytes of memory that this process takes; infinite where the system does not say."""
  try:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
  except OSError:
    return math.inf
  return pages * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture(scope='session')
def shared(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], None]], Path]:
  """Return a function that makes a folder once for all workers: (name, make) -> path.

  Tests must not change what is in it.
  """
  base = tmp_path_factory.getbasetemp()
  root = (base if worker_id == 'master' else base.parent) / 'shared'
  root.mkdir(exist_ok=True)

  def folder(name: str, make: Callable[[Path], None]) -> Path:
    path, made = root / name, root / f'{name}.made'
    with filelock.FileLock(root / f'{name}.lock'):
      if not made.exists():
        shutil.rmtree(path, ignore_errors=True)
        make(path)
        made.touch()
    return path

  return folder


def succeed(command: list[str]) -> None:
  """Run a command, and check that it succeeds."""
  ended = cli.run(*command)
  assert ended.code == 0, ended.err


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
def clips(shared) -> Path:
  """A clips dataset of procedural scenes."""
  return shared('clips', lambda path: succeed(tiny.scenes_command(path)))


@pytest.fixture(scope='session')
def latents_for(shared, clips) -> Callable[[str], Path]:
  """Return the clips as a latents dataset of a linear codec, by the name of a preset."""

  def for_preset(preset: str) -> Path:
    options = f'--codec={tiny.CODECS[preset]}', f'--preset={preset}'
    return shared(
      f'latents_{preset}', lambda path: succeed(tiny.encode_command(clips, path, *options))
    )

  return for_preset


@pytest.fixture(scope='session')
def latents(latents_for) -> Path:
  """The clips, encoded for the default preset."""
  return latents_for('dit')


@pytest.fixture(scope='session')
def unet_latents(latents_for) -> Path:
  """The clips, encoded for the U-Net."""
  return latents_for('unet')


@pytest.fixture(scope='session')
def stage1_command(latents):
  """The command that trains stage 1 into a directory, for interrupted and uninterrupted runs."""
  return lambda path: tiny.train_command(
    'demo_stage1', path, latents, train__steps=100, train__checkpoint_every=20
  )


@pytest.fixture(scope='session')
def stage1(shared, stage1_command) -> Path:
  """An uninterrupted run of stage 1."""
  return shared('stage1', lambda path: succeed(stage1_command(path)))


@pytest.fixture(scope='session')
def stage2(shared, latents) -> Path:
  """A run of stage 2, with validation loss, samples and their metrics."""
  changes = {'train__steps': 40, 'train__evaluate_every': 20, 'train__sample_every': 40}
  changes['train__metrics'] = ('psnr', 'foreground_iou')
  return shared(
    'stage2',
    lambda path: succeed(tiny.train_command('demo_stage2', path, latents, **changes)),
  )


@pytest.fixture(scope='session')
def folders(shared):
  """For each preset, the runs and the folder exported from them in float32."""
  from tests.helpers import exported
  from ttm_jax.exporting.folder import export

  made = {}
  for preset in exported.NAMES:

    def make(path, preset=preset):
      path.mkdir()
      export(*exported.make_runs(path, preset), path / 'folder', 'fp32')

    path = shared(preset, make)
    made[preset] = (path / 'stage1', path / 'stage2'), path / 'folder'
  return made
