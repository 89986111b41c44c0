"""Rate checkpoints by a metric of the validation data, to keep the best one (`train.keep_best`)."""

import dataclasses
import json
import math
from collections.abc import Mapping

from etils import epath
from ml_collections import ConfigDict

from ttm_jax.errors import InputError

LOSS = 'loss'
_ITEM = 'metrics'  # Name that Orbax gives to the item of a checkpoint, and to the file in it.
_RATING = 'rating'


@dataclasses.dataclass(frozen=True)
class Best:
  """The metric by which the best checkpoint is chosen.

  Attributes:
    name: 'loss', the validation loss, or one of the metrics of `train.metrics`.
    higher_is_better: its direction.
  """

  name: str
  higher_is_better: bool = False

  def rate(self, values: Mapping[str, float]) -> dict[str, float] | None:
    """Return what a checkpoint stores of the values of an evaluation: the value and its rating.

    A higher rating is better for every metric. Return None if the metric was not computed at this
    step, or is NaN or Inf.
    """
    value = values.get(self.name, math.nan)
    if not math.isfinite(value):
      return None
    return {self.name: value, _RATING: value if self.higher_is_better else -value}


def check_intervals(config: ConfigDict) -> None:
  """Check that the metric of `train.keep_best` is computed at every step with a checkpoint.

  Raises:
    InputError: if it is no metric of the run, or checkpoints fall between its evaluations.
  """
  settings = config.train
  name = settings.keep_best
  if not name:
    return
  known = (LOSS, *settings.metrics)
  if name not in known:
    raise InputError(
      f'config.train.keep_best is "{name}", which is not computed in this run: choose one of'
      f' {", ".join(known)}, or add it to config.train.metrics'
    )
  interval = 'evaluate_every' if name == LOSS else 'sample_every'
  every = settings[interval]
  if not every or settings.checkpoint_every % every:
    raise InputError(
      f'config.train.keep_best: "{name}" is computed every {every} steps, and checkpoints are'
      f' saved every {settings.checkpoint_every}: make config.train.checkpoint_every a multiple of'
      f' config.train.{interval}'
    )


def rating(metrics: Mapping[str, float]) -> float:
  """Return the rating that `Best.rate` stored."""
  return metrics[_RATING]


def stored_rating(checkpoint: epath.Path) -> float | None:
  """Return the rating of a checkpoint folder; None if there is none that can be read."""
  try:
    found = rating(json.loads((checkpoint / _ITEM / _ITEM).read_text()))
  except (OSError, ValueError, LookupError, TypeError, RecursionError):
    return None
  return found if isinstance(found, float) else None
