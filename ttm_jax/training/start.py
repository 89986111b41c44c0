"""Begin a run: resume from its newest checkpoint, or initialize it, also from other parameters."""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ttm_jax.errors import InputError
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import shardings
from ttm_jax.parallel.peers import Peers
from ttm_jax.training import fingerprint, runs
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.fingerprint import Fingerprint
from ttm_jax.training.init_cache import InitCache, key
from ttm_jax.training.objective import Objective
from ttm_jax.training.partial import dotted
from ttm_jax.training.placing import place
from ttm_jax.training.sources import PRETRAINED
from ttm_jax.training.state import TrainState, create
from ttm_jax.training.students import is_student
from ttm_jax.training.transfers import Transfer

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Begun:
  """The state of a run before its next step.

  Attributes:
    graphdef: structure of the network.
    state: the state.
    places: its shardings.
    restored: whether it was restored from a checkpoint.
    base: fingerprint of the parameters that a new LoRA run adapts; None for other runs.
  """

  graphdef: nnx.GraphDef
  state: TrainState
  places: Any
  restored: bool
  base: Fingerprint | None = None


def check_base(config: ConfigDict, objective: Objective) -> None:
  """Raise InputError if LoRA has no parameters to adapt, or a student no teacher."""
  if not objective.frozen or config.init_from:
    return
  if is_student(config):
    raise InputError(
      'a student needs a teacher: set --config.init_from to the run directory of a trained network'
      ' of this task'
    )
  if config.lora.rank:
    raise InputError(
      f'config.lora.rank is {config.lora.rank}, but there is nothing to adapt: set'
      f' --config.init_from to a run, or to {PRETRAINED}FOLDER_OR_HUB_ID'
    )


def begin(
  config: ConfigDict,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  checkpoints: Checkpoints,
  peers: Peers,
  say: Say,
) -> Begun:
  """Restore the newest checkpoint of a run, or initialize its state.

  All processes of a job call this together, inside the mesh.

  Args:
    config: configuration of the run.
    objective: the network, its loss and its data.
    optimizer: for the parameters as packed by `packing.pack`.
    mesh: the mesh.
    checkpoints: those of the run.
    peers: the processes of this job.
    say: called with each message for the user.

  Raises:
    InputError: if a checkpoint or the parameters to start from do not fit the network, or the base
      of a LoRA run is another one than before.
  """

  def initial() -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.split(objective.build(config.seed))[1])

  def begun(params: dict) -> TrainState:
    return create(params, optimizer, objective.frozen, objective.kinds)

  def fresh() -> TrainState:
    return begun(initial())

  def brought(source: dict) -> TrainState:
    return begun(objective.transfer(source, initial()))

  graphdef = nnx.graphdef(nnx.eval_shape(lambda: objective.build(config.seed)))
  abstract = jax.eval_shape(fresh)
  places = shardings(abstract, objective.sharding, mesh)
  run = checkpoints.directory.parent
  check = partial(
    runs.check_same_parameters, jax.tree.map(lambda x: x.shape, abstract.params), run=run
  )
  like = dataclasses.replace(_specs(abstract, places), frozen={})
  restored = checkpoints.restore_newest(like, check, peers.agree, say)
  if restored is not None and not objective.frozen:
    return Begun(graphdef, restored, places, True)
  if not config.init_from:
    state = compiler.jit(fresh, once=True, out_shardings=places)()
    return Begun(graphdef, state, places, False)

  source, base = _loaded(config, objective, jax.eval_shape(initial), mesh, peers, say)
  # One program, in which the initial values that the source replaces are never computed.
  build = partial(compiler.jit, once=True, donate_argnums=0)
  with warnings.catch_warnings():
    # Layers that move between stacks need new memory.
    warnings.filterwarnings('ignore', message='Some donated buffers were not usable')
    if restored is None:
      state = build(brought, out_shardings=places)(source)
      return Begun(graphdef, state, places, False, base if objective.frozen else None)
    fingerprint.check(base, fingerprint.read(run), run, config.init_from)
    frozen = build(lambda x: brought(x).frozen, out_shardings=places.frozen)(source)
    return Begun(graphdef, dataclasses.replace(restored, frozen=frozen), places, True)


def _loaded(
  config: ConfigDict,
  objective: Objective,
  initial: dict[str, Any],
  mesh: Mesh,
  peers: Peers,
  say: Say,
) -> tuple[dict[str, Any], Fingerprint]:
  """Return the parameters to start from, sharded, and their fingerprint.

  They are read from their files or from the converted copy. `initial` has the shapes of all
  parameters of the network.
  """
  source = objective.source(config.init_from)
  dtypes = _dtypes(config, objective, source.params, initial)
  shapes = jax.tree.map(lambda x, d: jax.ShapeDtypeStruct(x.shape, d), source.params, dtypes)
  places = shardings(shapes, objective.sharding, mesh)
  cache = None
  if config.get('init_cache') and not source.files:
    say(f'no copy is kept in config.init_cache: {config.init_from} is a run, which needs none')
  elif config.get('init_cache'):
    made_from = key(config.init_from, source.files, shapes)
    cache = InitCache(config.init_cache, made_from, peers, say)
  try:
    found = cache.restore(_specs(shapes, places)) if cache else None
    if found is None:
      found = place(source.params, places, dtypes, peers.progress)
      source.check(found[1])
      if cache:
        cache.save(*found)
  finally:
    source.close()
    if cache:
      cache.close()
  return found[0], fingerprint.of(shapes, found[1])


def _dtypes(
  config: ConfigDict, objective: Objective, source: dict[str, Any], initial: dict[str, Any]
) -> Any:
  """Return the dtype of each source parameter on the devices.

  It is that of the frozen parameters that it becomes, and float32 if these differ or are trained.

  Raises:
    InputError: if the source has no values for a frozen parameter.
  """
  wanted: dict[str, set[Any]] = {}
  if objective.frozen:
    transfer = Transfer(objective.transfer, source, initial)
    for name, dtype in objective.frozen.items():
      needed, new = transfer.needs(name)
      if new:
        raise InputError(
          f'{config.init_from} has no values for parameter {name}, which LoRA does not train: give'
          ' a base that has them, or set --config.lora.rank=0'
        )
      for other in needed:
        wanted.setdefault(other, set()).add(jnp.dtype(dtype))

  def chosen(path: tuple[Any, ...], _: Any) -> Any:
    found = wanted.get(dotted(path), set())
    return found.pop() if len(found) == 1 else jnp.dtype('float32')

  return jax.tree.map_with_path(chosen, source)


def _specs(tree: Any, places: Any) -> Any:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
