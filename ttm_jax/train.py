"""Train a codec, or a denoiser for one of the four tasks.

    python -m ttm_jax.train --config=configs/stage1_dit.py --workdir=runs/stage1 \\
        --config.data.path=DATASET

Flags can set every value of the configuration (--config.optimizer.learning_rate=1e-4). Repeat the
same command to resume an interrupted run.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ttm_jax import outputs
from ttm_jax.data import mixture
from ttm_jax.errors import EXIT_CODE, InputError, front_door
from ttm_jax.metrics.in_training import best, scorer
from ttm_jax.parallel.peers import Peers
from ttm_jax.parallel.startup import initialize
from ttm_jax.settings import parse_flags
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.loop import train
from ttm_jax.training.objective import Objective
from ttm_jax.training.orbax_errors import hush
from ttm_jax.training.runs import default_workdir
from ttm_jax.training.spike_guard import NotFinite

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_WORKDIR = flags.DEFINE_string('workdir', None, 'run directory; default runs/<config>-<date>')
_PROFILE = flags.DEFINE_string(
  'profile', '', 'steps N:M to trace into the run directory (profile/), for xprof'
)
flags.mark_flag_as_required('config')

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


def main(argv: list[str]) -> None:
  """Train as configured by the flags.

  Exit with code 3 if too many updates in a row are skipped, or parameters are NaN or Inf.

  Raises:
    InputError: If the configuration or an input is invalid.
  """
  del argv
  hush()
  config = _CONFIG.value
  limits = config.job
  initialize(limits.start_limit, limits.peer_limit)
  peers = Peers(limits.peer_limit, limits.hang_limit)
  try:
    with peers.together({InputError: EXIT_CODE, NotFinite: _NOT_FINITE}):
      if peers.count > 1 and not _WORKDIR.value:
        raise InputError('give the processes of a job one --workdir')
      config_file = config_flags.get_config_filename(flags.FLAGS['config'])
      workdir = _WORKDIR.value or default_workdir(config_file)
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
      objective: Objective = CodecTraining(config) if codec else Denoising(config)
      score = scorer(config.train.metrics)
      rated_by = best(config.train.keep_best)
      train(config, objective, workdir, peers, _PROFILE.value, score, rated_by)
  except NotFinite as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(_NOT_FINITE)


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
  cli()
