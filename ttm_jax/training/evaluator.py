"""Periodic evaluation of a run with the EMA weights: validation loss, and samples of fixed noise.

If the dataset has no validation split, the loss is computed on fixed training records and logged
as `train_subset/`.
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
from ttm_jax.training.objective import VALIDATION, Objective, stream
from ttm_jax.training.state import TrainState
from ttm_jax.training.step import make_evaluation
from ttm_jax.training.telemetry import Telemetry, means

SUBSET = 'train_subset'  # Metric prefix if the dataset has no validation split.
PANELS, SIDE = 4, 128  # Number of videos in the animation, and their longer side in pixels.


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
  ):
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
    batches = objective.batches(VALIDATION, 0)
    place = batch_sharding(mesh)
    count = max(1, config.train.evaluate_batches)
    self._batches = [to_device(next(batches), place) for _ in range(count)]

  def look(self, step: int, state: TrainState, last: bool = False) -> None:
    """Write the validation loss and samples that are due after a step.

    All processes call this together.

    Args:
      step: steps done.
      state: the state after them.
      last: whether this is the last step of the run; then both are due, unless disabled.
    """
    settings = self._config.train
    evaluate = settings.evaluate_every and (step % settings.evaluate_every == 0 or last)
    sample = settings.sample_every and (step % settings.sample_every == 0 or last)
    if not (evaluate or sample):
      return
    with self._telemetry.pause():
      if evaluate:
        found = []
        for i, arrays in enumerate(self._batches):
          self._peers.progress()
          found.append(self._evaluate(state.average, arrays, jax.random.fold_in(self._key, i)))
        values = means(jax.device_get(found))
        values.pop('gflops', None)
        self._telemetry.write(step, values, self._prefix)
      if sample:
        self._peers.progress()
        model = nnx.merge(self._graphdef, state.average)
        videos = self._objective.samples(model, self._batches[0], self._key)
        if jax.process_index() == 0:
          shown = _beside_truth(videos)
          folder = self._workdir / 'samples'
          _write(folder / f'step_{step:07d}.png', png(contact_sheet(shown)))
          panels = [(label, shrunk(video, SIDE)) for label, video in shown[:PANELS]]
          _write(folder / 'newest.gif', gif(animated(panels), self._objective.fps))


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
