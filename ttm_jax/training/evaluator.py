"""Periodic evaluation of a run with the EMA weights: validation loss, samples and their metrics.

If the dataset has no validation split, the loss is computed on fixed training records and logged
as `train_subset/`. Of a mixture, every dataset with a validation split is evaluated on as many
batches, and the loss is the mean by the weights of the mixture.
"""

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ttm_jax.atomic import write_bytes
from ttm_jax.data.loader import to_device
from ttm_jax.data.storage import is_local
from ttm_jax.media.animations import gif, png, shrunk
from ttm_jax.media.contact_sheet import animated, contact_sheet
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import batch_sharding, replicated
from ttm_jax.parallel.peers import Peers
from ttm_jax.training.objective import VALIDATION, Objective, Score
from ttm_jax.training.random_streams import stream
from ttm_jax.training.state import TrainState
from ttm_jax.training.step import make_evaluation
from ttm_jax.training.telemetry import Telemetry, means

SUBSET = 'train_subset'  # Metric prefix if the dataset has no validation split.
PANELS, SIDE = 4, 128  # Videos in the animation (two of each dataset, if that is more), their side.


class Evaluator:
  """Evaluates the EMA weights on fixed batches with fixed noise, so that steps are comparable."""

  def __init__(
    self,
    config: ConfigDict,
    objective: Objective,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    workdir: epath.Path,
    telemetry: Telemetry,
    peers: Peers,
    score: Score | None = None,
  ):
    """Read the fixed batches; `score` scores the samples, if it is given."""
    self._score = score
    self._config, self._objective, self._graphdef = config, objective, graphdef
    self._workdir, self._telemetry, self._peers = workdir, telemetry, peers
    self._key = stream(jax.random.key(config.seed), 'watch', 0)
    evaluate = make_evaluation(objective, graphdef)
    self._evaluate = compiler.jit(evaluate, gather=objective.gather, out_shardings=replicated(mesh))
    self._prefix = f'{VALIDATION}/' if objective.has_validation else f'{SUBSET}/'
    if config.train.evaluate_every and not objective.has_validation:
      telemetry.say(
        f'the dataset has no split "{VALIDATION}": the loss called {self._prefix} is of fixed'
        ' records that the run trains on'
      )
    place = batch_sharding(mesh)
    # The weight and the batches of each dataset.
    self._parts = [
      (weight, [to_device(batch, place) for batch in batches])
      for weight, batches in objective.validation(max(1, config.train.evaluate_batches))
    ]

  def look(self, step: int, state: TrainState, last: bool = False) -> dict[str, float]:
    """Write the validation loss and samples that are due after a step, and return the values.

    All processes call this together.

    Args:
      step: steps done.
      state: the state after them.
      last: whether this is the last step of the run; then both are due, unless disabled.

    Returns:
      The value of each metric that was due. In other processes than the first, metrics of samples
      are missing.
    """
    settings = self._config.train
    evaluate = settings.evaluate_every and (step % settings.evaluate_every == 0 or last)
    sample = settings.sample_every and (step % settings.sample_every == 0 or last)
    values: dict[str, float] = {}
    if not (evaluate or sample):
      return values
    with self._telemetry.pause():
      if evaluate:
        values = _weighted([(weight, self._means(state, some)) for weight, some in self._parts])
        values.pop('gflops', None)
      if sample:
        model = nnx.merge(self._graphdef, state.average)
        self._show(step, model)
        if self._score is not None:
          values |= self._scores(model, self._score)
      if values:
        self._telemetry.write(step, values, self._prefix)
    return values

  def _means(self, state: TrainState, batches: list[dict]) -> dict[str, float]:
    """Return the means of the metrics on batches of one dataset."""
    found = []
    for i, arrays in enumerate(batches):
      self._peers.progress()
      found.append(self._evaluate(state.average, arrays, jax.random.fold_in(self._key, i)))
    return means(jax.device_get(found))

  def _scores(self, model: nnx.Module, score: Score) -> dict[str, float]:
    """Return the metrics of samples of all fixed batches, averaged over datasets by weight."""
    parts = []
    for weight, batches in self._parts:
      truth: list[np.ndarray] = []
      generated: list[np.ndarray] = []
      ids: list[np.ndarray] = []
      for i, arrays in enumerate(batches):
        self._peers.progress()
        key = jax.random.fold_in(self._key, i)
        videos = dict(self._objective.samples(model, arrays, key))
        truth.append(videos.pop('truth'))
        generated += videos.values()
        ids.append(self._objective.label_maps(arrays))
      found: dict[str, float] = {}
      if jax.process_index() == 0:  # Others may lack the networks of metrics, and write nothing.
        together = np.concatenate
        found = score(together(truth), together(generated), together(ids), self._objective.fps)
      parts.append((weight, found))
    return _weighted(parts)

  def _show(self, step: int, model: nnx.Module) -> None:
    """Write samples of each dataset."""
    shown, panels = [], []
    for _, batches in self._parts:
      self._peers.progress()
      videos = _beside_truth(self._objective.samples(model, batches[0], self._key))
      shown += videos
      panels += videos[: max(2, PANELS // len(self._parts))]
    if jax.process_index() == 0:
      folder = self._workdir / 'samples'
      _write(folder / f'step_{step:07d}.png', png(contact_sheet(shown)))
      small = [(label, shrunk(video, SIDE)) for label, video in panels]
      _write(folder / 'newest.gif', gif(animated(small), self._objective.fps))


def _weighted(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
  """Return the weighted mean of each metric over the parts that have it."""
  values = {}
  for name in dict.fromkeys(name for _, found in parts for name in found):
    having = [(weight, found[name]) for weight, found in parts if name in found]
    values[name] = sum(w * value for w, value in having) / sum(w for w, _ in having)
  return values


def _write(path: epath.Path, content: bytes) -> None:
  """Write a file atomically, on disk or in a bucket."""
  if is_local(path):
    write_bytes(path, content)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}')
  partial.write_bytes(content)
  partial.replace(path)


def _beside_truth(videos: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
  """Interleave ground truth and samples: (label, video) pairs."""
  count = len(next(iter(videos.values())))
  return [(f'{label} {i}', some[i]) for i in range(count) for label, some in videos.items()]
