"""The training loop: one for all tasks, backbones and codecs."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ttm_jax.data.loader import to_device
from ttm_jax.errors import InputError
from ttm_jax.parallel.mesh import batch_sharding, make_mesh, platform, replicated, shardings
from ttm_jax.report.pictures import png, write_atomically
from ttm_jax.report.sheet import contact_sheet
from ttm_jax.training import runs
from ttm_jax.training.checkpoint import Checkpoints, refusal
from ttm_jax.training.objective import Objective, stream
from ttm_jax.training.state import TrainState, create, make_optimizer
from ttm_jax.training.step import make_evaluation, make_step
from ttm_jax.training.stop import StopOnSignal
from ttm_jax.training.telemetry import Telemetry, means

_global_norm = jax.jit(optax.global_norm)

# For a program that runs once, of many small kernels: compiling them well would take ten times as
# long.
QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


class NotFinite(RuntimeError):
  """The loss is no longer a number."""


def train(config: ConfigDict, objective: Objective, workdir: Path) -> TrainState:
  """Trains from the newest checkpoint in `workdir`, or from the start, to `config.train.steps`.

  SIGTERM and SIGINT end the run after the current step with a checkpoint; the same command
  continues it.

  Returns:
    The last state.

  Raises:
    InputError: if the workdir holds another run, a checkpoint does not fit, or the disk is full.
    NotFinite: if the loss becomes NaN or infinite; the last checkpoint is from before.
  """
  settings = config.train
  first = jax.process_index() == 0
  runs.check_run(workdir, config)
  mesh = make_mesh(config.mesh)
  _check_batch(config, mesh)
  checkpoints = Checkpoints(workdir / runs.CHECKPOINTS, settings.keep_last, settings.keep_every)
  with _writing(checkpoints), jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    closing.callback(checkpoints.close)
    optimizer = make_optimizer(config.optimizer, settings.steps)
    graphdef, state, places, restored = _start(config, objective, optimizer, mesh, checkpoints)
    if first:
      objective.begin(workdir)
      runs.write_config(workdir, config)
    begin = int(state.step)
    telemetry = Telemetry(
      workdir,
      settings.steps,
      begin,
      config.data.batch_size,
      objective.flops_per_sample,
      write=first,
    )
    closing.callback(telemetry.close)
    _greet(telemetry, workdir, state, restored)
    step_fn = jax.jit(
      make_step(objective, graphdef, optimizer, settings.accumulate, settings.ema),
      donate_argnums=0,
      out_shardings=(places, replicated(mesh)),
    )
    watch = _Watch(config, objective, graphdef, mesh, workdir, telemetry)
    root = jax.random.key(config.seed)
    batches = objective.batches('train', begin)
    place = batch_sharding(mesh)
    stop = closing.enter_context(StopOnSignal())
    if not restored:
      watch.look(0, state)
    for step in range(begin + 1, settings.steps + 1):
      waited = time.perf_counter()
      arrays = to_device(next(batches), place)
      telemetry.waited(time.perf_counter() - waited)
      state, metrics = step_fn(state, arrays, root)
      telemetry.add(metrics)
      stopped = stop.after(step)
      last = stopped or step == settings.steps
      if step % settings.log_every == 0 or last:
        _check_finite(telemetry.log(step), step, checkpoints)
      else:
        telemetry.advance(step)
      watch.look(step, state, last=step == settings.steps)
      if step % settings.checkpoint_every == 0 or last:
        with telemetry.pause():
          _check_finite({'parameter_norm': _norm(state.params)}, step, checkpoints)
          checkpoints.save(state)
      if stopped:
        telemetry.say(f'stopped by signal after step {step}; the same command continues')
        break
    checkpoints.wait()
  if first and int(state.step) >= settings.steps:
    # Outside the mesh, since one process computes alone.
    with _writing(checkpoints):
      objective.finish(workdir, nnx.merge(graphdef, state.ema))
  return state


def _start(config, objective, optimizer, mesh, checkpoints):
  """The network's structure, the state to begin with, and where its parts lie on the mesh."""

  def initial() -> TrainState:
    _, params = nnx.split(objective.build(config.seed))
    return create(nnx.to_pure_dict(params), optimizer)

  def brought(state: TrainState, source: dict) -> TrainState:
    return create(objective.transfer(source, state.params), optimizer)

  graphdef = nnx.graphdef(nnx.eval_shape(lambda: objective.build(config.seed)))
  abstract = jax.eval_shape(initial)
  places = shardings(abstract, objective.sharding, mesh)
  latest = checkpoints.latest()
  if latest is not None:
    runs.check_same_parameters(
      jax.tree.map(lambda x: x.shape, abstract.params),
      checkpoints.shapes(latest),
      checkpoints.directory.parent,
    )
    like = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, places
    )
    return graphdef, checkpoints.restore(latest, like), places, True
  source = objective.source(config.init_from) if config.init_from else None
  options = QUICK if platform() == 'cpu' else None
  state = jax.jit(initial, out_shardings=places, compiler_options=options)()
  if source is not None:
    # Each process has all of the source, and puts its own parts on its devices.
    source = jax.tree.map(
      lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
      source,
      shardings(source, objective.sharding, mesh),
    )
    state = jax.jit(brought, out_shardings=places, donate_argnums=0)(state, source)
  return graphdef, state, places, False


def _check_batch(config: ConfigDict, mesh: Mesh) -> None:
  """Raises InputError where the batch does not divide into equal parts."""
  size, parts = config.data.batch_size, config.train.accumulate
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  if size < 1 or parts < 1 or size % (parts * devices):
    raise InputError(
      f'config.data.batch_size {size} must be a multiple of {parts * devices}: of'
      f' config.train.accumulate {parts} times the {devices} devices along mesh axes data and fsdp'
    )


class _Watch:
  """Held-out loss and fixed-seed samples with the averaged weights, now and then."""

  def __init__(self, config, objective, graphdef, mesh, workdir, telemetry):
    self._config, self._objective, self._graphdef = config, objective, graphdef
    self._workdir, self._telemetry = workdir, telemetry
    self._key = stream(jax.random.key(config.seed), 'watch', 0)
    self._evaluate = jax.jit(make_evaluation(objective, graphdef), out_shardings=replicated(mesh))
    batches = objective.batches('validation', 0)
    place = batch_sharding(mesh)
    count = max(1, config.train.evaluate_batches)
    # Always the same batches, so that the numbers of different steps compare.
    self._batches = [to_device(next(batches), place) for _ in range(count)]

  def look(self, step: int, state: TrainState, last: bool = False) -> None:
    settings = self._config.train
    evaluate = settings.evaluate_every and (step % settings.evaluate_every == 0 or last)
    sample = settings.sample_every and (step % settings.sample_every == 0 or last)
    if not (evaluate or sample):
      return
    with self._telemetry.pause():
      if evaluate:
        found = [
          self._evaluate(state.ema, arrays, jax.random.fold_in(self._key, i))
          for i, arrays in enumerate(self._batches)
        ]
        self._telemetry.write(step, means(jax.device_get(found)), 'validation/')
      if sample:
        model = nnx.merge(self._graphdef, state.ema)
        videos = self._objective.samples(model, self._batches[0], self._key)
        if jax.process_index() == 0:
          path = self._workdir / 'samples' / f'step_{step:07d}.png'
          write_atomically(path, png(_sheet(videos)))


def _sheet(videos: dict[str, np.ndarray]) -> np.ndarray:
  """Each sample beside its truth, a few frames of each."""
  labels = list(videos)
  rows = [
    (f'{label} {i}', videos[label][i]) for i in range(len(videos[labels[0]])) for label in labels
  ]
  return contact_sheet(rows)


def _greet(telemetry: Telemetry, workdir: Path, state: TrainState, restored: bool) -> None:
  count = sum(x.size for x in jax.tree.leaves(state.params))
  begin = f'continues after step {int(state.step)}' if restored else 'starts'
  telemetry.say(
    f'{workdir}: {count / 1e6:.2f} M parameters on {jax.device_count()} x'
    f' {jax.devices()[0].device_kind}; {begin}'
  )


def _norm(params) -> float:
  """One number that is finite only if all parameters are."""
  return float(_global_norm(params))


def _check_finite(values: dict[str, float], step: int, checkpoints: Checkpoints) -> None:
  names = ('loss', 'grad_norm', 'parameter_norm')
  bad = [name for name in names if not math.isfinite(values.get(name, 0.0))]
  if bad:
    checkpoints.wait()
    last = checkpoints.latest()
    where = f'{checkpoints.directory}/{last}' if last is not None else 'none was saved'
    raise NotFinite(
      f'{bad[0]} is not finite at step {step}; last good checkpoint: {where}. Lower'
      ' --config.optimizer.learning_rate or look at the data of that step'
    )


@contextlib.contextmanager
def _writing(checkpoints: Checkpoints) -> Iterator[None]:
  """Turns the refusal of the disk to take a file into one sentence."""
  try:
    yield
  except OSError as error:
    reason = refusal(error)
    if not reason:
      raise
    raise checkpoints.cannot_write(reason) from error
