"""Compute the report of a plan, which is shown as tables or written as JSON."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from ttm_jax.parallel.mesh import AXES
from ttm_jax.planning import analytic, memory, roofline
from ttm_jax.planning.compile import Run, abstract_inputs
from ttm_jax.planning.costs import Costs, costs
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.layout import SAMPLER, STEP, lay_out
from ttm_jax.planning.sampler_report import SamplerReport, of_program

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Report:
  """The plan of one setting.

  Attributes:
    topology: the target hardware.
    mesh: sizes of the mesh axes by name.
    remat: rematerialization policy.
    accumulate: number of microbatches of a batch (gradient accumulation).
    offload: whether the optimizer state is in host memory.
    memory: memory of one device in training.
    model_flops: FLOPs of one step on one device, without recomputation.
    costs: costs of one step on one device, with recomputation.
    batch: global batch size in samples.
    tokens: tokens per sample.
    steps: train steps of the run.
    sampler: the plan of the sampler; None if not requested.
    left_out: what the estimates do not include; '' for a compiled program.
    seconds: compilation time in seconds.
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
  sampler: SamplerReport | None = None
  left_out: str = ''
  seconds: float = 0.0

  @property
  def setting(self) -> str:
    """A readable form, such as 'data 2 x fsdp 16, remat full'; axes of size 1 are left out."""
    more = f', accumulate {self.accumulate}' if self.accumulate > 1 else ''
    more += ', optimizer state on the host' if self.offload else ''
    return f'{named_mesh(self.mesh)}, remat {self.remat}{more}'

  @property
  def fits(self) -> bool:
    """Whether train step and sampler fit in the device memory."""
    samples = self.sampler is None or self.sampler.fits
    return samples and self.memory.total <= self.topology.chip.memory

  @property
  def times(self) -> roofline.Times:
    """Roofline times of one step on one device."""
    return roofline.times(self.costs, self.topology.chip)

  @property
  def samples_per_second(self) -> float:
    """Upper bound of the training throughput, in samples/s."""
    return self.batch / self.times.least

  @property
  def days(self) -> float:
    """Lower bound of the training time, in days."""
    return self.steps * self.times.least / DAY

  @property
  def best_mfu(self) -> float:
    """The model FLOPs utilization (MFU), 0 to 1, if the step reaches the roofline bound."""
    return self.model_flops / self.topology.chip.flops / self.times.least

  def to_dict(self) -> dict[str, Any]:
    """Return JSON-serializable values; bytes, seconds and FLOPs of one device."""
    topology, times = self.topology, self.times
    found = dataclasses.asdict(self) | {
      'topology': topology.name,
      'devices': topology.devices,
      'slices': topology.slices,
      'capacity': topology.chip.memory,
      'mesh': dict(self.mesh),
      'setting': self.setting,
      'fits': self.fits,
      'times': dataclasses.asdict(times),
      'bound': times.bound,
      'step_seconds': times.least,
      'step_seconds_without_overlap': times.most,
      'samples_per_second': self.samples_per_second,
      'tokens_per_second': self.samples_per_second * self.tokens,
      'days': self.days,
      'best_mfu': self.best_mfu,
      'sampler': self.sampler and self.sampler.to_dict(),
    }
    found['memory']['total'] = self.memory.total
    return found


def named_mesh(mesh: Mapping[str, int]) -> str:
  """Return a readable form of mesh sizes, such as 'data 2 x fsdp 16'."""
  sizes = (f'{axis} {count}' for axis, count in mesh.items() if count > 1)
  return ' x '.join(sizes) or 'one device'


def compiled_report(run: Run, mesh: Mesh, topology: Topology, sampler: bool = False) -> Report:
  """Return the report of a run compiled for the devices of a mesh.

  Args:
    run: the run to compile.
    mesh: the mesh to compile for.
    topology: the devices of the mesh.
    sampler: whether to compile the sampler too.

  Raises:
    TooLarge: a program does not fit in the device memory.
    RuntimeError: the compiler failed otherwise.
  """
  begin = time.perf_counter()
  wanted = [STEP, SAMPLER] if sampler else [STEP]
  step, *others = lay_out(run, mesh, topology, wanted)
  per_slice = topology.devices // topology.slices
  held = memory.of_program(step, *abstract_inputs(run, mesh))
  report = _report(run, mesh, topology, held, costs(step.program, per_slice))
  for other in others:
    report = dataclasses.replace(report, sampler=of_program(run, mesh, topology, other))
  return dataclasses.replace(report, seconds=time.perf_counter() - begin)


def analytic_report(run: Run, sizes: tuple[int, ...], topology: Topology) -> Report:
  """Return the report of estimates that need no compiler (see `analytic`).

  Args:
    run: the run.
    sizes: sizes of the mesh axes, in the order of `AXES`.
    topology: the target hardware.
  """
  mesh = analytic.abstract_mesh(sizes)
  held, needed = analytic.estimate(run, mesh, topology)
  report = _report(run, mesh, topology, held, needed)
  return dataclasses.replace(report, left_out=analytic.LEFT_OUT)


def too_large(run: Run, mesh: Mesh, topology: Topology, needed: float) -> Report:
  """Return the report of a run that does not fit in the device memory.

  Args:
    run: the run.
    mesh: the mesh that it was compiled for.
    topology: the devices of the mesh.
    needed: bytes per device that the compiler reported.
  """
  held = memory.held(*abstract_inputs(run, mesh), temporaries=0.0)
  held = dataclasses.replace(held, temporaries=max(needed - held.total, 0.0))
  flops = analytic.step_flops(run) / topology.devices
  report = _report(run, mesh, topology, held, Costs(flops, 0.0, {}))
  return dataclasses.replace(
    report,
    left_out='Out of device memory at compile time: the times are those of the FLOPs alone.',
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
  )
