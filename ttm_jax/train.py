"""Train a codec, or a denoiser for one of the four tasks.

    python -m ttm_jax.train --config=configs/stage1_dit.py --workdir=runs/stage1 \\
        --config.data.path=DATASET

Flags can set every value of the configuration (--config.optimizer.learning_rate=1e-4). Repeat the
same command to resume an interrupted run.
"""

from absl import app, flags
from ml_collections import config_flags

from ttm_jax.errors import front_door
from ttm_jax.parallel.compilation_cache import HELP
from ttm_jax.settings import parse_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_WORKDIR = flags.DEFINE_string('workdir', None, 'run directory; default runs/<config>-<date>')
_PROFILE = flags.DEFINE_string(
  'profile', '', 'steps N:M to trace into the run directory (profile/), for xprof'
)
_CACHE = flags.DEFINE_string('compilation_cache', '', HELP)
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
  """Train as configured by the flags."""
  del argv
  from ttm_jax.commands import train

  config_file = config_flags.get_config_filename(flags.FLAGS['config'])
  train.run(_CONFIG.value, config_file, _WORKDIR.value, _PROFILE.value, _CACHE.value)


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
  cli()
