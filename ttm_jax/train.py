"""Trains a codec, or a denoiser for one of the four tasks.

    python -m ttm_jax.train --config=configs/stage1_dit.py --workdir=runs/stage1 \\
        --config.data.path=DATASET

Every value of the configuration can be set by flag (--config.optimizer.learning_rate=1e-4). The
same command continues a run that was stopped.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from ttm_jax.errors import InputError, front_door
from ttm_jax.parallel.startup import initialize
from ttm_jax.settings import parse_flags
from ttm_jax.training.checkpoint import hush
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.loop import NotFinite, train
from ttm_jax.training.objective import Objective
from ttm_jax.training.runs import default_workdir

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_WORKDIR = flags.DEFINE_string('workdir', None, 'run directory; default runs/<config>-<date>')
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
  del argv
  hush()
  initialize()
  config = _CONFIG.value
  if jax.process_count() > 1 and not _WORKDIR.value:
    raise InputError('give the processes of a job one --workdir')
  workdir = Path(_WORKDIR.value or default_workdir(config_flags.get_config_filename(_CONFIG)))
  objective: Objective = CodecTraining(config) if config.task == 'codec' else Denoising(config)
  try:
    train(config, objective, workdir)
  except NotFinite as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(3)


if __name__ == '__main__':
  with front_door():
    app.run(main, flags_parser=parse_flags)
