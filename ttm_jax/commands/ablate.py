"""What `python -m ttm_jax.ablate` does."""

import shlex
from pathlib import Path

from ml_collections import ConfigDict

from ttm_jax import outputs
from ttm_jax.commands import run_command
from ttm_jax.data.clips import Clips
from ttm_jax.metrics.ablation import Ablation, score
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.report.ablation import write
from ttm_jax.training.orbax_errors import hush


def run(
  config: ConfigDict, workdir: str, seeds: int | None, rows: list[str] | None, only_print: bool
) -> None:
  """Train, score and tabulate an ablation.

  Args:
    config: the ablation.
    workdir: folder of all runs and results.
    seeds: number of seeds; None as configured.
    rows: names of the rows; None for all.
    only_print: whether to print the training commands and end.

  Raises:
    InputError: If the configuration or an input is invalid, or a step fails.
  """
  hush()
  keep_programs()
  plan = Ablation.read(config, Path(workdir), seeds, rows)
  if only_print:
    for each in plan.runs:
      print(f'python -m {shlex.join(each.command)}')
    return
  outputs.check('--workdir', folders=[plan.workdir])
  for name, folder, command in plan.preparation:
    if not folder.exists():
      run_command(f'Prepare {name}', command)
  for i, each in enumerate(plan.runs):
    if not each.complete:
      run_command(f'Train {each.name}, {i + 1} of {len(plan.runs)}', each.command)
  clips = Clips(plan.clips, 'validation')
  results = score(plan, [clips[i] for i in range(min(len(clips), plan.count))])
  write(plan, results)
