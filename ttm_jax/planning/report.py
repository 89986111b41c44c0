"""What a plan says: computed once, shown as tables or written as JSON."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from ttm_jax.parallel.mesh import AXES, batch_sharding
from ttm_jax.planning import analytic, compile, inputs, memory, roofline
from ttm_jax.planning.compile import Run
from ttm_jax.planning.costs import Costs, costs
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.layout import SAMPLER, STEP, lay_out

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Report:
  """The plan of one setting.

  Attributes:
    topology: the machine; mesh: sizes of its axes.
    remat: what the backward pass recomputes; accumulate: parts of a batch; offload: whether the
      optimiser's moments lie on the host.
    memory: of one device in training.
    model_flops: of one step on one device, as the method needs them.
    costs: of one step on one device, as they are computed.
    batch: samples; tokens: of each; steps: of the run.
    sampler: costs of generating `samples` clips, and bytes of one device meanwhile; None where that
      was not asked for.
    left_out: what the figures lack; '' for a compiled program.
    seconds: that compiling took.
  """

  topology: Topology
  mesh: Mapping[str, int]
  remat: str
  accumulate: int
  offload: bool
  memory: memory.Memory
  model_flops: float
  costs: Costs
  batch: int
  tokens: int
  steps: int
  samples: int = 0
  sampler: Costs | None = None
  sampler_memory: float = 0.0
  left_out: str = ''
  seconds: float = 0.0

  @property
  def fits(self) -> bool:
    return max(self.memory.total, self.sampler_memory) <= self.topology.chip.memory

  @property
  def times(self) -> roofline.Times:
    return roofline.times(self.costs, self.topology.chip)

  @property
  def samples_per_second(self) -> float:
    return self.batch / self.times.least

  @property
  def days(self) -> float:
    return self.steps * self.times.least / DAY

  @property
  def best_mfu(self) -> float:
    """The share of the peak that the model's operations have, if the roofline is reached."""
    return self.model_flops / self.topology.chip.flops / self.times.least

  def to_dict(self) -> dict[str, Any]:
    """Plain figures; bytes, seconds and operations of one device."""
    found = dataclasses.asdict(self)
    found['topology'] = self.topology.name
    found['devices'], found['slices'] = self.topology.devices, self.topology.slices
    found['capacity'] = self.topology.chip.memory
    found['mesh'] = dict(self.mesh)
    found['memory']['total'] = self.memory.total
    found['fits'] = self.fits
    found['times'] = dataclasses.asdict(self.times)
    found['bound'] = self.times.bound
    found['step_seconds'] = self.times.least
    found['step_seconds_without_overlap'] = self.times.most
    found['samples_per_second'] = self.samples_per_second
    found['tokens_per_second'] = self.samples_per_second * self.tokens
    found['days'] = self.days
    found['best_mfu'] = self.best_mfu
    return found


def compiled_report(run: Run, mesh: Mesh, topology: Topology, sampler: bool = False) -> Report:
  """Compiles for the devices of the mesh, and reads what came out.

  Raises:
    TooLarge: where the compiler finds no way to fit.
  """
  begin = time.perf_counter()
  wanted = [STEP, SAMPLER] if sampler else [STEP]
  step, *others = lay_out(run, mesh, topology, wanted)
  per_slice = topology.devices // topology.slices
  state = compile.abstract_state(run, mesh)
  arrays = inputs.batch(run.of_one, run.config.data.batch_size, batch_sharding(mesh))
  held = memory.of_program(step, state, arrays)
  report = _report(run, mesh, topology, held, costs(step.program, per_slice))
  for other in others:
    report = dataclasses.replace(
      report,
      sampler=costs(other.program, per_slice),
      sampler_memory=other.arguments + other.temporaries,
    )
  return dataclasses.replace(report, seconds=time.perf_counter() - begin)


def analytic_report(run: Run, sizes: tuple[int, ...], topology: Topology) -> Report:
  """What needs no compiler (see `analytic`)."""
  mesh = analytic.abstract_mesh(sizes)
  held, needed = analytic.estimate(run, mesh, topology)
  report = _report(run, mesh, topology, held, needed)
  return dataclasses.replace(report, left_out=analytic.LEFT_OUT)


def too_large(run: Run, mesh: Mesh, topology: Topology, needed: float) -> Report:
  """What is known of a setting that the compiler refused: its state, and how much is needed."""
  state = compile.abstract_state(run, mesh)
  arrays = inputs.batch(run.of_one, run.config.data.batch_size, batch_sharding(mesh))
  held = memory.held(state, arrays, 0.0)
  held = dataclasses.replace(held, temporaries=max(needed - held.total, 0.0))
  flops = analytic.step_flops(run) / topology.devices
  report = _report(run, mesh, topology, held, Costs(flops, 0.0, {}))
  return dataclasses.replace(
    report, left_out='the compiler refused it: times are those of the matrix units alone'
  )


def _report(run: Run, mesh: Any, topology: Topology, held: memory.Memory, needed: Costs) -> Report:
  config = run.config
  size = config.data.batch_size
  return Report(
    topology=topology,
    mesh={axis: mesh.shape[axis] for axis in AXES},
    remat=config.model.get('remat', 'none'),
    accumulate=config.train.accumulate,
    offload=config.optimizer.offload,
    memory=held,
    model_flops=run.objective.flops_per_sample * size / topology.devices,
    costs=needed,
    batch=size,
    tokens=run.tokens,
    steps=config.train.steps,
    samples=min(config.sample.count, size),
  )
