"""What can be known of a run without a compiler for its devices.

Exact: the state, the batch, the matrix products. Estimated: the activations that the backward pass
needs. Exchange: the parameters and gradients of `fsdp` and `data`. Left out: the temporaries of a
layer, what attention exchanges along `sequence` and layers along `tensor`, traffic of the memory.
"""

from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from ttm_jax.parallel.mesh import AXES, batch_sharding
from ttm_jax.planning import inputs, memory
from ttm_jax.planning.compile import Run, abstract_state
from ttm_jax.planning.costs import Costs, Exchange
from ttm_jax.planning.flops import count
from ttm_jax.planning.hardware import Topology
from ttm_jax.training.state import TrainState

# What is traced to be counted: the kernels of this chip say what they cost.
_COUNTED_ON = AbstractDevice('TPU v5p', 1, 'tpu')

LEFT_OUT = (
  'no compiler for these devices here: left out are the temporaries of a layer, what attention'
  ' exchanges along sequence and layers along tensor, and the traffic of the memory'
)


def abstract_mesh(sizes: tuple[int, ...], device: AbstractDevice | None = None) -> AbstractMesh:
  """A mesh of no devices, for shapes and shardings.

  Args:
    device: what is traced on it shall run on.
  """
  types = (AxisType.Auto,) * len(AXES)
  return AbstractMesh(sizes, AXES, axis_types=types, abstract_device=device)


def estimate(run: Run, mesh: AbstractMesh, topology: Topology) -> tuple[memory.Memory, Costs]:
  """Memory of one device, and the costs of one step on it."""
  state = abstract_state(run, mesh)
  arrays = inputs.batch(run.of_one, run.config.data.batch_size, batch_sharding(mesh))
  flops = step_flops(run) / topology.devices
  kept = activations(run) / mesh.size / run.config.train.accumulate
  gradients = memory.share(jax.tree.leaves(state.params))
  held = memory.held(state, arrays, kept + gradients)
  return held, Costs(flops, 0.0, exchange(run, state, mesh, topology))


def step_flops(run: Run) -> float:
  """Of forward, backward and what is computed again, on all devices together, per step."""
  of_one = _of_loss(run, lambda loss: jax.value_and_grad(loss, has_aux=True), count)
  return run.config.data.batch_size * of_one


def activations(run: Run) -> float:
  """Bytes kept from the forward for the backward pass of a step, on all devices together.

  Only what grows with the batch. Parameters are counted elsewhere, and so are matrices that are
  rounded before the loop over layers: these and their gradients, in half the width, take what the
  gradients would take in the parameters' dtype.
  """

  def kept(function, *args):
    found = jax.tree.leaves(jax.eval_shape(function, *args))
    return sum(x.size * x.dtype.itemsize for x in found)

  def of(samples):
    return _of_loss(run, lambda loss: lambda p: jax.vjp(loss, p, has_aux=True)[1], kept, samples)

  return run.config.data.batch_size * (of(2) - of(1))


def _of_loss(run: Run, derive: Any, measure: Any, samples: int = 1) -> float:
  """measure(derive(loss), parameters), of the loss of so many samples."""
  objective = run.objective
  arrays = {
    name: jax.ShapeDtypeStruct((samples, *x.shape), x.dtype) for name, x in run.of_one.items()
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  with jax.sharding.use_abstract_mesh(abstract_mesh((1,) * len(AXES), _COUNTED_ON)):
    graphdef = run.graphdef()

    def of_samples(params, arrays, key):
      return derive(lambda p: objective.loss(nnx.merge(graphdef, p), arrays, key))(params)

    return measure(of_samples, run.shapes.params, arrays, key)


def exchange(
  run: Run, state: TrainState, mesh: AbstractMesh, topology: Topology
) -> dict[str, Exchange]:
  """Parameters gathered for each pass and gradients summed, over fsdp; then summed over data."""
  config = run.config
  dtype = config.model.get('dtype', 'float32')
  size = 4 if dtype == 'float32' else 2
  split = memory.share(
    x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated
  )
  elements = split / 4
  remat = config.model.get('remat', 'none')
  passes = 2 + (remat not in ('none', 'dots'))
  fsdp, data = mesh.shape['fsdp'], mesh.shape['data']
  parts = config.train.accumulate
  found = {
    'all-gather': Exchange(passes * parts, passes * parts * elements * size * (fsdp - 1)),
    'reduce-scatter': Exchange(parts, parts * elements * size * (fsdp - 1)),
  }
  if data > 1:
    found['all-reduce'] = Exchange(1, 2 * split * (data - 1) / data)
  group = topology.chip.group
  if group and mesh.shape['fsdp'] * mesh.shape['sequence'] * mesh.shape['tensor'] > group:
    # Rings that leave the node run at the pace of the slower network.
    found = {kind: Exchange(x.count, 0.0, x.near) for kind, x in found.items()}
  return found
