"""Conditions as training varies them: texts exchanged between samples, and condition dropout."""

import jax
from ml_collections import ConfigDict

from ttm_jax import conditioning
from ttm_jax.conditioning import Condition
from ttm_jax.errors import InputError
from ttm_jax.tasks import Task

Array = jax.Array


def check(config: ConfigDict, task: Task) -> None:
  """Check that a task can be trained with exchanged texts, if a configuration asks for them.

  Args:
    config: configuration of the run.
    task: its task.

  Raises:
    InputError: if the probability is not in 0..1; or it is above 0, and the task has no trajectory,
      so that the texts alone would say what moves, or a batch has no other sample.
  """
  rate = _exchanged(config.train)
  if not 0 <= rate <= 1:
    raise InputError(f'config.train.exchanged_texts must be a probability, 0 to 1, got {rate}')
  if rate and 'given_trajectory' not in task.visual:
    raise InputError(
      f'config.train.exchanged_texts is {rate}, and task {task.name} is given no trajectory: with'
      ' texts of other samples it could not learn what moves. Set it to 0, or train stage 2'
    )
  if rate and config.data.batch_size < 2 * config.train.accumulate:
    raise InputError(
      f'config.train.exchanged_texts is {rate}, and a microbatch is one sample, so there are no'
      ' texts of another one: set it to 0, or raise config.data.batch_size'
    )


def vary(key: Array, condition: Condition, null_text: Condition, settings: ConfigDict) -> Condition:
  """Return a condition with texts exchanged between samples, and parts of it dropped.

  Args:
    key: random key.
    condition: a batch of B samples.
    null_text: see `conditioning.dropout`.
    settings: `config.train`.

  Returns:
    A condition of the same structure and shapes as `condition`.
  """
  rate = _exchanged(settings)
  if rate:
    condition = conditioning.exchange_texts(jax.random.fold_in(key, 1), condition, rate)
  return conditioning.dropout(key, condition, null_text, settings.dropout)


def _exchanged(settings: ConfigDict) -> float:
  return settings.get('exchanged_texts', 0.0)  # Runs of earlier versions have none.
