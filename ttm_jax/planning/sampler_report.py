"""Compute the plan of the sampler: memory and least time to generate one batch of clips."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ttm_jax.parallel.mesh import AXES, AnyMesh
from ttm_jax.planning import analytic, roofline
from ttm_jax.planning.compile import Run, abstract_state
from ttm_jax.planning.costs import Costs, costs
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.layout import SAMPLER, BufferLayout, TooLarge, lay_out
from ttm_jax.planning.memory import share

LEFT_OUT = 'Estimated without a compiler. Not included: intermediate results, communication.'
NO_MEMORY = 'Out of device memory at compile time: the time is that of the FLOPs alone.'


@dataclasses.dataclass(frozen=True)
class SamplerReport:
  """The plan of generating a batch of clips.

  Attributes:
    topology: the target hardware.
    mesh: sizes of the mesh axes by name.
    samples: number of clips that are generated at once.
    steps: sampling steps.
    parameters: bytes of the parameters on one device.
    temporaries: bytes of conditions, activations and other intermediate results on one device.
    costs: costs of all steps on one device.
    left_out: what the estimates do not include; '' for a compiled program.
    seconds: compilation time in seconds.
  """

  topology: Topology
  mesh: Mapping[str, int]
  samples: int
  steps: int
  parameters: float
  temporaries: float
  costs: Costs
  left_out: str = ''
  seconds: float = 0.0

  @property
  def total(self) -> float:
    """Bytes of one device."""
    return self.parameters + self.temporaries

  @property
  def fits(self) -> bool:
    """Whether the sampler fits in the device memory."""
    return self.total <= self.topology.chip.memory

  @property
  def times(self) -> roofline.Times:
    """Roofline times of all steps on one device."""
    return roofline.times(self.costs, self.topology.chip)

  def to_dict(self) -> dict[str, Any]:
    """Return JSON-serializable values; bytes, seconds and FLOPs of one device."""
    return dataclasses.asdict(self) | {
      'topology': self.topology.name,
      'devices': self.topology.devices,
      'slices': self.topology.slices,
      'capacity': self.topology.chip.memory,
      'mesh': dict(self.mesh),
      'total': self.total,
      'fits': self.fits,
      'times': dataclasses.asdict(self.times),
      'sampling_seconds': self.times.least,
      'sampling_seconds_without_overlap': self.times.most,
    }


def compiled(run: Run, mesh: Mesh, topology: Topology) -> SamplerReport:
  """Return the report of the sampler compiled for the devices of a mesh.

  If the compiler runs out of memory, `fits` is false.

  Raises:
    RuntimeError: the compiler failed otherwise.
  """
  begin = time.perf_counter()
  try:
    (program,) = lay_out(run, mesh, topology, [SAMPLER])
  except TooLarge as error:
    report = estimated(run, mesh, topology)
    temporaries = max(error.needed - report.parameters, 0.0)
    return dataclasses.replace(report, temporaries=temporaries, left_out=NO_MEMORY)
  report = of_program(run, mesh, topology, program)
  return dataclasses.replace(report, seconds=time.perf_counter() - begin)


def of_program(run: Run, mesh: Mesh, topology: Topology, program: BufferLayout) -> SamplerReport:
  """Return the report of a compiled sampler."""
  parameters = _parameters(run, mesh)
  temporaries = max(program.arguments + program.temporaries - parameters, 0.0)
  needed = costs(program.program, topology.devices // topology.slices)
  return _report(run, mesh, topology, parameters, temporaries, needed)


def estimated(run: Run, mesh: AnyMesh, topology: Topology) -> SamplerReport:
  """Return the report of estimates that need no compiler: parameters, and FLOPs of products."""
  flops = analytic.sampler_flops(run, _samples(run)) / topology.devices
  report = _report(run, mesh, topology, _parameters(run, mesh), 0.0, Costs(flops, 0.0, {}))
  return dataclasses.replace(report, left_out=LEFT_OUT)


def _parameters(run: Run, mesh: AnyMesh) -> float:
  return share(jax.tree.leaves(abstract_state(run, mesh).average))


def _samples(run: Run) -> int:
  return min(run.config.sample.count, run.config.data.batch_size)


def _report(
  run: Run,
  mesh: AnyMesh,
  topology: Topology,
  parameters: float,
  temporaries: float,
  needed: Costs,
) -> SamplerReport:
  return SamplerReport(
    topology=topology,
    mesh={axis: mesh.shape[axis] for axis in AXES},
    samples=_samples(run),
    steps=run.config.process.steps,
    parameters=parameters,
    temporaries=temporaries,
    costs=needed,
  )
