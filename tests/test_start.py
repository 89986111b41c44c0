"""The second start is fast: programs are kept between runs, and traced once in a run."""

import dataclasses
import os
from types import MappingProxyType

import numpy as np
import pytest

from tests.helpers import cli, exported, tiny
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage

FOLDER, ENABLED = 'JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Tiny runs of both stages."""
  return exported.make_runs(tmp_path_factory.mktemp('runs'), 'dit')


@pytest.fixture
def arguments(runs, tmp_path):
  """Arguments of `generate` for the runs."""
  one, two = runs
  return [*exported.flags(tmp_path), f'--stage1={one}', f'--stage2={two}']


def like_a_user():
  """Undo the settings of the tests, which JAX has read already."""
  import jax

  os.environ.pop('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')
  jax.config.update('jax_compilation_cache_dir', os.environ[FOLDER] or None)
  jax.config.update('jax_compilation_cache_max_size', -1)
  jax.config.update('jax_enable_compilation_cache', os.environ.get(ENABLED) != 'false')


def generate(arguments, out, cache, *more, env=MappingProxyType({}), before=like_a_user):
  """Run the command with a user's cache directory of its own; return what it said."""
  env = {FOLDER: '', 'XDG_CACHE_HOME': str(cache), **env}
  given = [*arguments, f'--out={out}/out.mp4', *more]
  ended = cli.run('ttm_jax.generate', *given, env=env, before=before)
  assert ended.code == 0 and (out / 'out.mp4').exists(), ended.err
  return [line for line in ended.err.splitlines() if 'compiled programs' in line]


def kept(cache):
  return {path.name: path.stat().st_mtime_ns for path in cache.rglob('*-cache')}


def test_programs_are_kept_for_the_next_start(arguments, tmp_path):
  cache = tmp_path / 'cache'
  (said,) = generate(arguments, tmp_path, cache)
  (folder,) = (cache / 'ttm_jax').iterdir()
  assert said.startswith(f'note: compiled programs are kept in {folder}, so that the next start')
  programs = kept(cache)
  for program in ('jit_begin', 'jit_step', 'jit_end'):
    assert any(name.startswith(program) for name in programs)
  # Neither a seed, nor a prompt, nor a trajectory makes another program.
  more = '--seed=7', '--prompt=Something else.', f'--trajectory={tmp_path}/out_trajectory'
  (tmp_path / 'again').mkdir()
  assert generate(arguments, tmp_path / 'again', cache, *more) == []
  assert kept(cache) == programs


@pytest.mark.parametrize(
  'flags, env', [(['--compilation_cache=off'], {}), ([], {ENABLED: 'false'})], ids=['flag', 'env']
)
def test_it_can_be_turned_off(arguments, tmp_path, flags, env):
  cache = tmp_path / 'cache'
  assert generate(arguments, tmp_path, cache, *flags, env=env) == [] and not cache.exists()


@pytest.mark.parametrize('how', ['flag', 'env'])
def test_it_can_be_moved(arguments, tmp_path, how):
  cache, moved = tmp_path / 'cache', tmp_path / 'moved'
  moved.mkdir()
  flags = [f'--compilation_cache={moved}'] if how == 'flag' else []
  env = {FOLDER: str(moved)} if how == 'env' else {}
  assert generate(arguments, tmp_path, cache, *flags, env=env) == []
  assert kept(moved) and not cache.exists()


def test_a_folder_that_cannot_be_written_is_told_once(arguments, tmp_path):
  (tmp_path / 'file').write_text('')
  (said,) = generate(arguments, tmp_path, tmp_path / 'file' / 'cache')
  assert 'cannot be kept in' in said and '(not a directory)' in said


def full_disk():
  """Let each program fail to be written, as on a full disk; half of it is there."""
  from jax._src import lru_cache

  like_a_user()

  def put(self, key, value):
    (self.path / f'{key}-cache').write_bytes(value[: len(value) // 2])
    raise OSError(28, os.strerror(28))

  lru_cache.LRUCache.put = put


def test_a_full_disk_is_told_once(arguments, tmp_path):
  cache = tmp_path / 'cache'
  _, said = generate(arguments, tmp_path, cache, before=full_disk)
  assert 'cannot be kept in' in said and 'No space left on device' in said
  torn = kept(cache)
  assert torn
  # What was written in part is neither read nor in the way of the whole.
  assert generate(arguments, tmp_path, cache) == []
  assert not {*torn.items()} & {*kept(cache).items()} and {*torn} <= {*kept(cache)}


def counted(stage):
  """Count the traces of the network of a stage."""
  traces = []
  usual = stage.denoiser.step

  def step(*args):
    traces.append(stage.denoiser.config.task)
    return usual(*args)

  stage.denoiser.step = step
  return traces


def test_a_network_is_traced_once_for_each_size_of_batch(runs):
  one, two = runs
  pipeline = Pipeline(Stage(one, STAGE1), Stage(two, STAGE2))
  motion, video = counted(pipeline.stage1), counted(pipeline.stage2)
  request = exported.request()
  pipeline.compile([request])
  assert (len(motion), len(video)) == (1, 1)
  ids = pipeline.trajectories([request], 0)
  base = pipeline.videos([request], ids, 0)
  other = dataclasses.replace(request, caption='Something else.')
  assert (pipeline.videos([other], exported.moved(request.mask)[None], 7) != base).any()
  assert (len(motion), len(video)) == (1, 1)
  two_at_once = pipeline.videos([request, other], np.concatenate([ids, ids]), 0)
  assert two_at_once.shape == (2, tiny.FRAMES, tiny.SIDE, tiny.SIDE, 3)
  assert (len(motion), len(video)) == (1, 2)


def test_a_checkpoint_is_refused_before_stage_1_has_worked(runs):
  """Parameters are read in the background, so that a damaged one must be waited for."""
  one, two = runs
  stage2 = Stage(two, STAGE2)

  def fail():
    raise InputError('it is damaged')

  stage2._params = stage2.sampler._pool.submit(fail)
  with pytest.raises(InputError, match='it is damaged'):
    Pipeline(Stage(one, STAGE1), stage2).compile([exported.request()])
