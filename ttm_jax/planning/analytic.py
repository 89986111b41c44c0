"""Estimate the memory and cost of a run without a compiler for its devices.

Exact: memory of the train state and the batch, and FLOPs of the matrix products. Estimated:
activations kept for the backward pass. Communication covers parameters and gradients along `fsdp`
and `data`. Not included: temporaries of a layer, communication of attention along `sequence` and of
layers along `tensor`, and memory traffic.
"""

from contextlib import AbstractContextManager
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from ttm_jax.parallel.mesh import AXES
from ttm_jax.planning import memory
from ttm_jax.planning.compile import Run, abstract_inputs
from ttm_jax.planning.costs import Communication, Costs
from ttm_jax.planning.flops import count
from ttm_jax.planning.hardware import Topology
from ttm_jax.training.partial import merged
from ttm_jax.training.state import TrainState

# FLOPs are counted on programs traced for this chip, whose Pallas kernels state their cost.
_COUNTED_ON = AbstractDevice('TPU v5p', 1, 'tpu')

LEFT_OUT = (
  'Estimated without a compiler. Not included: temporaries of a layer, communication of attention'
  ' along sequence and of layers along tensor, memory traffic.'
)


def abstract_mesh(sizes: tuple[int, ...], device: AbstractDevice | None = None) -> AbstractMesh:
  """Return a mesh without devices, for shapes and shardings.

  Args:
    sizes: the sizes of the mesh axes, in the order of `AXES`.
    device: the device type that programs traced on the mesh target.
  """
  types = (AxisType.Auto,) * len(AXES)
  return AbstractMesh(sizes, AXES, axis_types=types, abstract_device=device)


def estimate(run: Run, mesh: AbstractMesh, topology: Topology) -> tuple[memory.Memory, Costs]:
  """Return the memory of one device and the costs of one train step on it."""
  state, arrays = abstract_inputs(run, mesh)
  flops = step_flops(run) / topology.devices
  kept = activations(run) / mesh.size / run.config.train.accumulate
  gradients = memory.share(jax.tree.leaves(state.params))
  held = memory.held(state, arrays, kept + gradients)
  return held, Costs(flops, 0.0, communication(run, state, mesh, topology))


def step_flops(run: Run) -> float:
  """Return the FLOPs of one train step on all devices: forward, backward and recomputation."""
  of_one = _of_loss(run, lambda loss: jax.value_and_grad(loss, has_aux=True), count)
  return run.config.data.batch_size * of_one


def sampler_flops(run: Run, samples: int) -> float:
  """Return the FLOPs of generating a number of clips, on all devices."""
  objective = run.objective
  with _counted():
    graphdef = run.graphdef()

    def generate(params, arrays, key):
      return objective.generate(nnx.merge(graphdef, params), arrays, key)

    return samples * count(generate, run.shapes.average, *_inputs(run, 1))


def activations(run: Run) -> float:
  """Return the bytes of activations kept for the backward pass of a step, on all devices together.

  Counts only memory that grows with the batch size, for a whole batch without gradient
  accumulation. This excludes parameters and the kernels cast to bfloat16 before the loop over
  layers. These casts and their gradients have half the width of the parameters. Together they take
  as much as gradients in the dtype of the parameters, which `estimate` adds.
  """

  def kept(function, *args):
    found = jax.tree.leaves(jax.eval_shape(function, *args))
    return sum(x.size * x.dtype.itemsize for x in found)

  def of(samples):
    return _of_loss(run, lambda loss: lambda p: jax.vjp(loss, p, has_aux=True)[1], kept, samples)

  return run.config.data.batch_size * (of(2) - of(1))


def _of_loss(run: Run, derive: Any, measure: Any, samples: int = 1) -> float:
  """Return measure(derive(loss), parameters, arrays, key) for a batch of `samples` samples."""
  objective = run.objective
  with _counted():
    graphdef = run.graphdef()

    def of_samples(params, frozen, arrays, key):
      def loss(params):
        return objective.loss(nnx.merge(graphdef, merged(frozen, params)), arrays, key)

      return derive(loss)(params)

    return measure(of_samples, run.shapes.params, run.shapes.frozen, *_inputs(run, samples))


def _counted() -> AbstractContextManager[Any]:
  """Return a context in which programs are traced for one chip."""
  return jax.sharding.use_abstract_mesh(abstract_mesh((1,) * len(AXES), _COUNTED_ON))


def _inputs(run: Run, samples: int) -> tuple[dict[str, Any], Any]:
  """Return the arrays of a batch and a random key, as shapes."""
  arrays = {
    name: jax.ShapeDtypeStruct((samples, *x.shape), x.dtype) for name, x in run.of_one.items()
  }
  return arrays, jax.eval_shape(lambda: jax.random.key(0))


def communication(
  run: Run, state: TrainState, mesh: AbstractMesh, topology: Topology
) -> dict[str, Communication]:
  """Return the communication of one device in one train step, by kind of collective.

  Counts the all-gather of parameters for each pass and the reduce-scatter of gradients along
  `fsdp`, and the all-reduce of gradients along `data`. Trained parameters are float32.
  """
  config = run.config
  dtype = config.model.get('dtype', 'float32')
  size = 4 if dtype == 'float32' else 2
  trained, frozen = (
    [x for x in jax.tree.leaves(tree) if not x.sharding.is_fully_replicated]
    for tree in (state.params, state.frozen)
  )
  split = memory.share(trained)
  elements = split / 4
  gathered = elements + sum(memory.share([x]) / x.dtype.itemsize for x in frozen)
  remat = config.model.get('remat', 'none')
  passes = 2 + (remat not in ('none', 'dots'))
  fsdp, data = mesh.shape['fsdp'], mesh.shape['data']
  parts = config.train.accumulate
  found = {
    'all-gather': Communication(passes * parts, passes * parts * gathered * size * (fsdp - 1)),
    'reduce-scatter': Communication(parts, parts * elements * size * (fsdp - 1)),
  }
  if data > 1:
    found['all-reduce'] = Communication(1, 2 * split * (data - 1) / data)
  group = topology.chip.group
  if group and mesh.shape['fsdp'] * mesh.shape['sequence'] * mesh.shape['tensor'] > group:
    # The slower network between nodes limits a ring that spans several nodes.
    found = {kind: Communication(x.count, 0.0, x.near) for kind, x in found.items()}
  return found
