"""Train and score the rows of an ablation table, several seeds each, with intervals.

    python -m ttm_jax.ablate --config=ablate_scenes --workdir=runs/ablation

A configuration names the rows: each is a configuration of stage 2 with some values changed. Runs
and scores that exist already are kept, so the same command resumes after an interruption. The
result is ablation.md, ablation.json and report.html in the work directory.

Runs are independent. To spread them over machines that share the work directory, let

    python -m ttm_jax.ablate --config=ablate_scenes --workdir=DIR --print_commands

print one training command per line, for instance for a SLURM job array, and call without the flag
when all are complete.
"""

from absl import app, flags
from ml_collections import config_flags

from ttm_jax.errors import front_door
from ttm_jax.settings import parse_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'ablation, see configs/ablate_*.py')
_WORKDIR = flags.DEFINE_string('workdir', None, 'folder of all runs and results')
_PRINT = flags.DEFINE_bool('print_commands', False, 'print the training commands and end')
_SEEDS = flags.DEFINE_integer('seeds', None, 'number of seeds; default as configured')
_ROWS = flags.DEFINE_list('rows', None, 'only these rows, comma-separated; default all')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: list[str]) -> None:
  """Train, score and tabulate the ablation that the flags name."""
  del argv
  from ttm_jax.commands import ablate

  ablate.run(_CONFIG.value, _WORKDIR.value or '', _SEEDS.value, _ROWS.value, _PRINT.value)


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
  cli()
