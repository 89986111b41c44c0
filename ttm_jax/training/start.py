"""Begin a run: resume from its newest checkpoint, or initialize it, also from other parameters."""

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

from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import shardings
from ttm_jax.parallel.peers import Peers
from ttm_jax.training import runs
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.init_cache import InitCache, key
from ttm_jax.training.objective import Objective
from ttm_jax.training.placing import place
from ttm_jax.training.state import TrainState, create

Say = Callable[[str], None]


def begin(
  config: ConfigDict,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  checkpoints: Checkpoints,
  peers: Peers,
  say: Say,
) -> tuple[nnx.GraphDef, TrainState, Any, bool]:
  """Return the state of a run before its next step.

  All processes of a job call this together, inside the mesh.

  Args:
    config: configuration of the run.
    objective: the network, its loss and its data.
    optimizer: for the parameters as packed by `packing.pack`.
    mesh: the mesh.
    checkpoints: those of the run.
    peers: the processes of this job.
    say: called with each message for the user.

  Returns:
    Structure of the network, the state, its shardings, and whether it was restored.

  Raises:
    InputError: if a checkpoint or the parameters to start from do not fit the network.
  """

  def initial() -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.split(objective.build(config.seed))[1])

  def fresh() -> TrainState:
    return create(initial(), optimizer, objective.kinds)

  def brought(source: dict) -> TrainState:
    return create(objective.transfer(source, initial()), optimizer, objective.kinds)

  graphdef = nnx.graphdef(nnx.eval_shape(lambda: objective.build(config.seed)))
  abstract = jax.eval_shape(fresh)
  places = shardings(abstract, objective.sharding, mesh)
  check = partial(
    runs.check_same_parameters,
    jax.tree.map(lambda x: x.shape, abstract.params),
    run=checkpoints.directory.parent,
  )
  restored = checkpoints.restore_newest(_specs(abstract, places), check, peers.agree, say)
  if restored is not None:
    return graphdef, restored, places, True
  if not config.init_from:
    return graphdef, compiler.jit(fresh, once=True, out_shardings=places)(), places, False
  source = _loaded(config, objective, mesh, peers, say)
  # One program, in which the initial values that the source replaces are never computed.
  program = compiler.jit(brought, once=True, out_shardings=places, donate_argnums=0)
  with warnings.catch_warnings():
    # Layers that move between stacks need new memory.
    warnings.filterwarnings('ignore', message='Some donated buffers were not usable')
    return graphdef, program(source), places, False


def _loaded(
  config: ConfigDict, objective: Objective, mesh: Mesh, peers: Peers, say: Say
) -> dict[str, Any]:
  """Return the parameters to start from, sharded, from their files or from the converted copy."""
  source = objective.source(config.init_from)
  dtypes = jax.tree.map(lambda x: jnp.dtype('float32'), source.params)
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
      peers.progress()
      found = place(source.params, places, dtypes)
      source.check(found[1])
      if cache:
        cache.save(*found)
  finally:
    if cache:
      cache.close()
  return found[0]


def _specs(tree: Any, places: Any) -> Any:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
