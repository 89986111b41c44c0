"""The training loop, shared by all tasks, backbones and codecs."""

import contextlib
import itertools
import math
import sys
from collections.abc import Iterator

import jax
import optax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax.data.loader import Prefetch, to_device
from ttm_jax.data.storage import absolute, mirrored
from ttm_jax.errors import printable
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import (
  batch_sharding,
  check_batch,
  make_mesh,
  replicated,
)
from ttm_jax.parallel.peers import Peers
from ttm_jax.parallel.startup import connect
from ttm_jax.training import fingerprint, runs, start
from ttm_jax.training.best import Best, check_intervals
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.evaluator import Evaluator
from ttm_jax.training.lock import exclusive
from ttm_jax.training.objective import Objective, Score
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.orbax_errors import refusal
from ttm_jax.training.profile import Profile
from ttm_jax.training.sources import read_parameters
from ttm_jax.training.spike_guard import NotFinite
from ttm_jax.training.state import TrainState
from ttm_jax.training.step import make_step
from ttm_jax.training.step_timer import StepTimer
from ttm_jax.training.stop import StopOnSignal
from ttm_jax.training.telemetry import Telemetry

_global_norm = jax.jit(optax.global_norm)


def train(
  config: ConfigDict,
  objective: Objective,
  workdir: epath.PathLike,
  peers: Peers | None = None,
  profile: str = '',
  score: Score | None = None,
  best: Best | None = None,
) -> TrainState:
  """Train to `config.train.steps`, from the newest checkpoint in `workdir` or from scratch.

  On SIGTERM or SIGINT, save a checkpoint after the current step and return. The same command
  resumes the run.

  Args:
    config: configuration of the run.
    objective: the network, its loss and its data.
    workdir: the run directory, local or on gs://.
    peers: the processes of this job; only this one by default.
    profile: the steps to trace, 'N:M', see `Profile`.
    score: scores the samples; by default they are only shown.
    best: the metric of `config.train.keep_best`; None if the best checkpoint is not kept.

  Returns:
    The last state.

  Raises:
    InputError: if the workdir holds another run or is in use, a checkpoint does not fit, or the
      disk is full.
    NotFinite: if a parameter is NaN or Inf, or `train.skip_limit` steps in a row were skipped. A
      step is skipped for a NaN or Inf loss or gradient, or for a loss spike. Skipped steps do not
      change parameters, so the last checkpoint is good.
  """
  settings, workdir = config.train, absolute(workdir)
  first = jax.process_index() == 0
  runs.check_run(workdir, config)
  objective.check_run(workdir)
  mesh = make_mesh(config.mesh)
  check_batch(config.data.batch_size, settings.accumulate, mesh)
  start.check_base(config, objective)
  check_intervals(config)
  checkpoints = Checkpoints(
    workdir / runs.CHECKPOINTS, settings.keep_last, settings.keep_every, best is not None
  )
  with _writing(checkpoints), jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    peers = peers or closing.enter_context(contextlib.closing(Peers()))
    stop = closing.enter_context(StopOnSignal())
    if first:
      closing.enter_context(exclusive(workdir))
    peers.agree('the run directory is ours')
    connect(mesh)
    closing.callback(checkpoints.close)
    optimizer = make_optimizer(config.optimizer, settings.steps)
    begun = start.begin(config, objective, optimizer, mesh, checkpoints, peers, _tell)
    graphdef, state = begun.graphdef, begun.state
    if first:
      with mirrored(workdir, *objective.parts) as folder:
        objective.begin(folder)
      runs.write_config(workdir, config)
      if begun.base is not None:
        fingerprint.write(workdir, begun.base)
    begin = int(state.step)
    clock = StepTimer()
    closing.callback(clock.close)
    telemetry = Telemetry(
      workdir, config, begin, objective.flops_per_sample, write=first, clock=clock
    )
    closing.callback(telemetry.close)
    tracing = closing.enter_context(
      contextlib.closing(Profile(profile if first else '', workdir, clock))
    )
    _greet(telemetry, workdir, state, begun.restored)
    step_fn = compiler.jit(
      make_step(objective, graphdef, optimizer, settings.accumulate, settings.ema, settings.spike),
      gather=objective.gather,
      donate_argnums=0,
      out_shardings=(begun.places, replicated(mesh)),
    )
    watch = Evaluator(config, objective, graphdef, mesh, workdir, telemetry, peers, score)
    root = jax.random.key(config.seed)
    place = batch_sharding(mesh)
    stream = itertools.islice(objective.batches('train', begin), max(settings.steps - begin, 0))
    batches = closing.enter_context(
      contextlib.closing(Prefetch(stream, lambda batch: to_device(batch, place)))
    )
    if not begun.restored:
      watch.look(0, state)
    for step in range(begin + 1, settings.steps + 1):
      tracing.before(step)
      clock.begin()
      peers.progress()
      arrays = next(batches)
      clock.got_data()
      peers.progress()
      state, metrics = step_fn(state, arrays, root)
      clock.handed_over(metrics)
      tracing.after(step)
      telemetry.add(metrics)
      stopped = stop.after(step)
      last = stopped or step == settings.steps
      if step % settings.log_every == 0 or last:
        guard = jax.device_get(state.guard)
        telemetry.log(step, {'skipped': float(guard.skipped)})
        if guard.in_row >= settings.skip_limit:
          raise _not_finite(f'the last {guard.in_row} steps up to {step} were skipped', checkpoints)
      else:
        telemetry.advance(step)
      values = watch.look(step, state, last=step == settings.steps)
      if step % settings.checkpoint_every == 0 or last:
        with telemetry.pause():
          peers.progress()
          if not math.isfinite(float(_global_norm(state.params))):
            raise _not_finite(f'a parameter is not finite after step {step}', checkpoints)
          rated = None
          if best is not None:
            rated = peers.agree(f'rating of step {step}', best.rate(values))[0]
          checkpoints.save(state, rated)
      if stopped:
        telemetry.say(f'stopped by signal after step {step}; the same command continues')
        break
    checkpoints.wait()
  if first and int(state.step) >= settings.steps:

    def average() -> nnx.Module:
      # A process cannot read the shards of another one, but all are in the last checkpoint.
      params = state.average if jax.process_count() == 1 else read_parameters(workdir)
      return nnx.merge(graphdef, params)

    # Outside the mesh, because only this process computes here.
    with _writing(checkpoints), mirrored(workdir) as folder:
      objective.finish(folder, average)
  return state


def _greet(telemetry: Telemetry, workdir: epath.Path, state: TrainState, restored: bool) -> None:
  trained, frozen = (
    sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (state.params, state.frozen)
  )
  share = f'{trained:.2f} M of ' if frozen else ''
  begin = f'continues after step {int(state.step)}' if restored else 'starts'
  telemetry.say(
    f'{workdir}: {share}{trained + frozen:.2f} M parameters on {jax.device_count()} x'
    f' {jax.devices()[0].device_kind}; {begin}'
  )


def _tell(text: str) -> None:
  """Print a message to stderr in process 0; used before the progress bar exists."""
  if jax.process_index() == 0:
    print(printable(text), file=sys.stderr, flush=True)


def _not_finite(what: str, checkpoints: Checkpoints) -> NotFinite:
  checkpoints.wait()
  last = checkpoints.latest()
  where = f'{checkpoints.directory}/{last}' if last is not None else 'none was saved'
  return NotFinite(
    f'{what}: loss or gradients are not finite, or the loss is far beyond the usual; last good'
    f' checkpoint: {where}. Lower --config.optimizer.learning_rate or look at the data of these'
    ' steps'
  )


@contextlib.contextmanager
def _writing(checkpoints: Checkpoints) -> Iterator[None]:
  """Convert file system errors such as a full disk to InputError."""
  try:
    yield
  except OSError as error:
    reason = refusal(error)
    if not reason:
      raise
    raise checkpoints.cannot_write(reason) from error
