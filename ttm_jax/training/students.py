"""What a run of `training.distillation` holds, for those who read it."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.guidance_inputs import out_of_range, ranges
from ttm_jax.presets import preset
from ttm_jax.training.savings import Savings

# Top-level names of the parameters of a distillation.
STUDENT, TEACHER, CRITIC = 'student', 'teacher', 'critic'


def is_student(config: ConfigDict) -> bool:
  """Return whether a run distills a student."""
  return bool(config.get('distill'))


def samples_in_few_steps(config: ConfigDict) -> bool:
  """Return whether a run is a student that samples in the steps it was trained for alone."""
  return is_student(config) and config.distill.get('method') == 'dmd'


def check_sampling(
  run: Any,
  config: ConfigDict,
  steps: int | None,
  guidance: dict[str, float],
  solver: str | None = None,
) -> None:
  """Check that a student is sampled as it was trained.

  Args:
    run: name of the run, for the message.
    config: its configuration.
    steps: the number of sampling steps that is asked for; None for the configured one.
    guidance: guidance scales and savings that are asked for, by their names in `config.sample`.
    solver: the solver that is asked for; None for the configured one.

  Raises:
    InputError: if it is a student, and other steps or guidance are asked for, or scales that it was
      not trained for.
  """
  if not is_student(config):
    return
  allowed = ranges(config.distill)
  if wrong := out_of_range(allowed, guidance):
    raise InputError(
      f'run {run} is a student that takes guidance scales as inputs, and {wrong}: choose a scale in'
      f' this range, or sample with its teacher, {config.init_from}'
    )
  few, usual = samples_in_few_steps(config), dataclasses.asdict(Savings()) | config.sample.to_dict()
  free = {*allowed, *(() if few else ('reuse',))}
  asked = [name for name, value in guidance.items() if name not in free and value != usual[name]]
  if few and steps not in (None, config.process.steps):
    asked.append('steps')
  process: Any = preset(config.preset).process
  configured = config.process.get('solver', process.solver)
  if few and solver not in (None, configured):
    asked.append('solver')
  if asked:
    made = f'{config.process.steps} steps' if few else 'any number of steps'
    raise InputError(
      f'run {run} is a student, made for {made}{"" if allowed else " without guidance"}: leave out'
      f' {", ".join(asked)}, or sample with its teacher, {config.init_from}'
    )
