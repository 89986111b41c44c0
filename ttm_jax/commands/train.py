"""What `python -m ttm_jax.train` does."""

import sys

from ml_collections import ConfigDict

from ttm_jax import outputs
from ttm_jax.data import mixture
from ttm_jax.errors import EXIT_CODE, InputError
from ttm_jax.metrics.in_training import best, scorer
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.parallel.peers import Peers
from ttm_jax.parallel.startup import initialize
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.loop import train
from ttm_jax.training.objective import Objective
from ttm_jax.training.objectives import denoising
from ttm_jax.training.orbax_errors import hush
from ttm_jax.training.runs import default_workdir
from ttm_jax.training.spike_guard import NotFinite

_NOT_FINITE = 3  # Exit code.

# The files and folders that training writes or replaces in a run directory.
_WRITTEN = (
  *(
    'config.json',
    'base.json',
    'metrics.jsonl',
    'in_use.lock',
    'checkpoints',
    'damaged',
    'context',
    'codec',
  ),
  *('samples', 'tensorboard', 'profile'),
)


def run(
  config: ConfigDict, config_file: str, workdir: str | None, profile: str, cache: str
) -> None:
  """Train; exit with code 3 if too many updates are skipped, or parameters are NaN or Inf.

  Args:
    config: the configuration.
    config_file: its file.
    workdir: run directory; None for a new one.
    profile: steps N:M to trace; '' for none.
    cache: folder of compiled programs, see `compilation_cache.keep_programs`.

  Raises:
    InputError: If the configuration or an input is invalid.
  """
  hush()
  limits = config.job
  initialize(limits.start_limit, limits.peer_limit)
  peers = Peers(limits.peer_limit, limits.hang_limit)
  keep_programs(cache, tell=peers.index == 0)
  try:
    with peers.together({InputError: EXIT_CODE, NotFinite: _NOT_FINITE}):
      if peers.count > 1 and not workdir:
        raise InputError('give the processes of a job one --workdir')
      workdir = workdir or str(default_workdir(config_file))
      data = [dataset.path for dataset in mixture.datasets(config.data.path)]
      files = [file for path in data for file in outputs.files_of(path)]
      reads: outputs.Reads = {
        '--config': config_file,
        '--config.data.path': [*files, *(f'{path}/context' for path in data if path)],
        '--config.init_from': outputs.parts_of_run(config.init_from),
      }
      outputs.check_apart('--workdir', [f'{workdir}/{name}' for name in _WRITTEN], reads)
      codec = config.task == 'codec'
      if codec and len(data) > 1:
        raise InputError(
          f'config.data.path names {len(data)} datasets: a codec is trained on one of clips'
        )
      objective: Objective = CodecTraining(config) if codec else denoising(config)
      score = scorer(config.train.metrics)
      rated_by = best(config.train.keep_best)
      train(config, objective, workdir, peers, profile, score, rated_by)
  except NotFinite as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(_NOT_FINITE)
