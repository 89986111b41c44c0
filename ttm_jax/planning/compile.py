"""Lower the train step and sampler of a run for target hardware that is not attached."""

import dataclasses
import fnmatch
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.parallel.compiler import jit
from ttm_jax.parallel.mesh import AnyMesh, batch_sharding, replicated, shardings
from ttm_jax.planning import inputs
from ttm_jax.planning.hardware import Topology
from ttm_jax.training.codec import CodecTraining
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.objective import Objective
from ttm_jax.training.objectives import denoising
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.state import TrainState, create
from ttm_jax.training.step import make_step

# The name of the compiled function, by which `layout` finds its dumps.
PLANNED = 'planned'


@dataclasses.dataclass(frozen=True)
class Run:
  """A configuration with the shapes of its inputs.

  Attributes:
    config: the configuration of the run.
    objective: the training objective.
    of_one: shapes and dtypes of the arrays of one sample.
    tokens: number of tokens of one sample; 0 if the network has no tokens.
    state: returns the shapes of the train state. Evaluated lazily and cached; `changed` does not
      alter them.
    clip: (frames, height, width) of the clips in pixels; None for those of the paper.
  """

  config: ConfigDict
  objective: Objective
  of_one: inputs.Shapes
  tokens: int
  state: Callable[[], TrainState]
  clip: inputs.Size | None = None

  @classmethod
  def make(
    cls, config: ConfigDict, clip: inputs.Size | None = None, context: Context | None = None
  ) -> 'Run':
    """Return the run of a configuration.

    Args:
      config: the configuration of the run.
      clip: (frames, height, width) of the clips in pixels; by default those of the paper.
      context: the context of a latents dataset; by default that of a typical one for `clip`.
    """
    objective: Objective
    if config.task == 'codec':
      frames, height, width = clip or (config.data.frames, 256, 256)
      objective = codec = CodecTraining(config, (height, width))
      of_one, tokens = codec.record(frames), 0
    else:
      context = context or inputs.typical_context(config, clip)
      objective = denoising(config, context)
      of_one, tokens = inputs.record(context), inputs.tokens(context)
    optimizer = make_optimizer(config.optimizer, config.train.steps)

    def initial() -> TrainState:
      _, params = nnx.split(objective.build(config.seed))
      return create(nnx.to_pure_dict(params), optimizer, objective.frozen, objective.kinds)

    state = functools.cache(lambda: jax.eval_shape(initial))
    return cls(config, objective, of_one, tokens, state, clip)

  @property
  def shapes(self) -> TrainState:
    """The shapes of the train state."""
    return self.state()

  def graphdef(self) -> nnx.GraphDef:
    """Return the graphdef (static structure) of the network."""
    return nnx.graphdef(nnx.eval_shape(lambda: self.objective.build(self.config.seed)))

  def check(self, sizes: Mapping[str, int]) -> None:
    """Raise InputError if a mesh with axes of these sizes cannot shard the network."""
    if isinstance(self.objective, Denoising):
      self.objective.check_mesh(sizes)
    elif max(sizes['sequence'], sizes['tensor']) > 1:
      raise InputError(
        'an autoencoder cannot be split along mesh axes sequence and tensor: set'
        ' --config.mesh.sequence=1 --config.mesh.tensor=1'
      )

  def changed(self, changes: Mapping[str, Any]) -> 'Run':
    """Return a copy of the run with some configuration values changed.

    Args:
      changes: new values by dotted key. They must not alter the shapes of inputs or train state.
    """
    config = ConfigDict(self.config.to_dict())
    config.update_from_flattened_dict(dict(changes))
    objective: Objective
    if isinstance(self.objective, Denoising):
      objective = denoising(config, self.objective.context)
    else:
      assert isinstance(self.objective, CodecTraining)
      objective = CodecTraining(config, self.objective.size)
    return dataclasses.replace(self, config=config, objective=objective)


def tpu_devices(topology: Topology) -> list[Any]:
  """Return descriptions of TPU devices for ahead-of-time compilation.

  Raises:
    InputError: the TPU compiler (libtpu) is not installed, or not the one that this JAX needs.
  """
  _check_compiler()
  os.environ.update(
    # Keep libtpu from looking for attached chips and from blocking other processes that use it.
    TPU_SKIP_MDS_QUERY='1',
    TPU_WORKER_HOSTNAMES='localhost',
    ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  )
  slices = {'num_slices': topology.slices} if topology.slices > 1 else {}
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology.name, **slices)
  return list(found.devices)


def _check_compiler() -> None:
  """Raise InputError without the TPU compiler that the installed JAX needs."""
  needed = compiler_requirement()
  remedy = (
    f"run `pip install --no-deps --upgrade --target .venv-aot '{needed}'`, then set"
    ' PYTHONPATH=.venv-aot'
  )
  if importlib.util.find_spec('libtpu') is None:
    raise InputError(f'the TPU compiler (libtpu) is not installed: {remedy}')
  try:
    version = metadata.version('libtpu')
  except metadata.PackageNotFoundError:
    return  # A build without metadata says no version.
  if not fnmatch.fnmatch(version, needed.partition('==')[2] or '*'):
    raise InputError(f'libtpu is {version}, but jax {jax.__version__} needs {needed}: {remedy}')


def compiler_requirement() -> str:
  """Return what the installed JAX requires of libtpu, such as `libtpu==0.0.42.*`.

  Programs that another version compiles cannot be read, since their dumps differ.
  """
  requirements = [line.partition(';')[0].strip() for line in metadata.requires('jax') or ()]
  return next((line for line in requirements if line.startswith('libtpu')), 'libtpu')


def abstract_inputs(run: Run, mesh: AnyMesh) -> tuple[TrainState, inputs.Shapes]:
  """Return the train state and the batch of a step as shapes with shardings."""
  size = run.config.data.batch_size
  return abstract_state(run, mesh), inputs.batch(run.of_one, size, batch_sharding(mesh))


def abstract_state(run: Run, mesh: AnyMesh) -> TrainState:
  """Return the train state as shapes with shardings."""
  state_shardings = shardings(run.shapes, run.objective.sharding, mesh)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    run.shapes,
    state_shardings,
  )


def lower_step(run: Run, mesh: Mesh) -> jax.stages.Lowered:
  """Lower the train step as the training loop runs it."""
  config, settings = run.config, run.config.train
  state, arrays = abstract_inputs(run, mesh)
  with jax.set_mesh(mesh):
    step = make_step(
      run.objective,
      run.graphdef(),
      make_optimizer(config.optimizer, settings.steps),
      settings.accumulate,
      settings.ema,
      settings.spike,
    )
    state_shardings = jax.tree.map(lambda x: x.sharding, state)
    jitted = _jit(step, run, donate_argnums=0, out_shardings=(state_shardings, replicated(mesh)))
    return jitted.lower(state, arrays, _key(mesh))


def lower_sampler(run: Run, mesh: Mesh) -> jax.stages.Lowered:
  """Lower the generation of one batch with the EMA parameters."""
  state, arrays = abstract_inputs(run, mesh)
  with jax.set_mesh(mesh):
    graphdef = run.graphdef()

    def generate(params, arrays, key):
      return run.objective.generate(nnx.merge(graphdef, params), arrays, key)

    return _jit(generate, run).lower(state.average, arrays, _key(mesh))


def _jit(function: Callable[..., Any], run: Run, **options: Any) -> Any:
  """Jit a function as the training loop does, named PLANNED to identify its compiler dumps."""
  function.__name__ = PLANNED
  return jit(function, gather=run.objective.gather, **options)


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
