"""Metrics of samples of a training run."""

import numpy as np
import pytest

from ttm_jax.errors import InputError
from ttm_jax.metrics.in_training import best, scorer
from ttm_jax.metrics.registry import METRICS
from ttm_jax.training.best import Best


def test_scores_are_those_of_the_metrics():
  rng = np.random.default_rng(0)
  truth = rng.integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
  ids = np.zeros((3, 4, 16, 16), np.uint8)
  ids[:, :, 4:8, 4:8] = 2
  found = scorer(('psnr', 'object_psnr'))(truth, truth, ids, 8.0)
  assert found == {'psnr': 100, 'object_psnr': 60}
  found = scorer(('object_psnr',))(truth, truth, np.zeros_like(ids), 8.0)
  assert np.isnan(found['object_psnr'])  # No clip has an object.


def test_no_metrics_no_scorer():
  assert scorer(()) is None


@pytest.mark.parametrize(
  'name, message',
  [
    ('attributes', 'config.train.metrics: "attributes" reads texts, .* ttm_jax.evaluate'),
    ('psn', 'unknown metric "psn"'),
  ],
)
def test_what_cannot_be_computed(name, message):
  with pytest.raises(InputError, match=message):
    scorer((name,))


def test_metrics_that_read_texts_say_so():
  read = {name for name, metric in METRICS.items() if metric.reads_texts}
  assert read == {
    *('object_prompt', 'viclip_text', 'direction'),
    *('attributes', 'attributes_told', 'attributes_kept'),
  }


def test_the_direction_of_what_rates_checkpoints():
  assert best('') is None
  assert best('loss') == Best('loss', higher_is_better=False)
  assert best('psnr') == Best('psnr', higher_is_better=True)
