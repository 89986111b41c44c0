"""Other settings of a run: what fits where one does not, and how they compare."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from ttm_jax.errors import InputError
from ttm_jax.ops.rematerialization import POLICIES
from ttm_jax.parallel.mesh import (
  AXES,
  check_batch,
  factorisations,
  make_mesh,
  mesh_sizes,
)
from ttm_jax.planning import analytic, memory
from ttm_jax.planning.analytic import abstract_mesh
from ttm_jax.planning.compile import Run, abstract_state, tpu_devices
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.layout import TooLarge
from ttm_jax.planning.report import Report, analytic_report, compiled_report, too_large

Sizes = tuple[int, ...]

# How many settings are compiled in search of one that fits.
TRIES = 5


@dataclasses.dataclass(frozen=True)
class Setting:
  """What may be chosen without changing what a run computes.

  Attributes:
    mesh: sizes of the axes.
    remat: a name of `remat.POLICIES`; '' where the network has no choice.
    accumulate: parts of a batch.
    offload: whether the optimiser's moments lie on the host.
  """

  mesh: Sizes
  remat: str
  accumulate: int
  offload: bool

  def changes(self) -> dict[str, Any]:
    """As values of the configuration."""
    found = {f'mesh.{axis}': size for axis, size in zip(AXES, self.mesh, strict=True)}
    found |= {'train.accumulate': self.accumulate, 'optimizer.offload': self.offload}
    return found | ({'model.remat': self.remat} if self.remat else {})

  def flags(self, config: Any) -> str:
    """The flags that lead from a configuration to this setting."""
    values = {
      key: value
      for key, value in self.changes().items()
      if config[key.split('.')[0]][key.split('.')[1]] != value
    }
    return ' '.join(f'--config.{key}={value}' for key, value in values.items())


class Planner:
  """Plans runs on one machine.

  Attributes:
    progress: called with what is being done, as a context manager.
  """

  def __init__(self, topology: Topology, progress: Callable[[str], Any], sampler: bool = True):
    self.topology, self.progress, self._sampler = topology, progress, sampler
    self._devices = tpu_devices(topology) if topology.chip.platform == 'tpu' else None

  def setting(self, run: Run) -> Setting:
    """That of the configuration; its mesh filled in.

    Raises:
      InputError: where the mesh does not divide the devices, the batch or the heads.
    """
    config = run.config
    sizes = mesh_sizes(config.mesh, self.topology.devices)
    # Devices also have a say in it, where there are several slices.
    mesh = make_mesh(config.mesh, self._devices) if self._devices else abstract_mesh(sizes)
    check_batch(config.data.batch_size, config.train.accumulate, mesh)
    run.check(mesh.shape)
    return Setting(
      sizes,
      config.model.get('remat', ''),
      config.train.accumulate,
      config.optimizer.offload,
    )

  def report(self, run: Run, setting: Setting, sampler: bool | None = None) -> Report:
    """The plan of one setting; one that the compiler refuses has `fits` false."""
    run = run.changed(setting.changes())
    if self._devices is None:
      return analytic_report(run, setting.mesh, self.topology)
    mesh = make_mesh(dict(zip(AXES, setting.mesh, strict=True)), self._devices)
    wanted = self._sampler if sampler is None else sampler
    with self.progress(f'compiling for {self.topology.title}: {_named(setting)}'):
      try:
        return compiled_report(run, mesh, self.topology, wanted)
      except TooLarge as error:
        return too_large(run, mesh, self.topology, error.needed)

  def nearest(self, run: Run, setting: Setting, found: Report) -> tuple[Setting, Report] | None:
    """The setting most like one that does not fit, that does; None if a few tries find none."""
    candidates = sorted(
      (other for other in settings(run, self.topology) if other != setting),
      key=lambda other: distance(setting, other),
    )
    predict = Prediction(run, setting, found)
    tries = 0
    for other in candidates:
      if tries == TRIES:
        break
      if predict(other) > self.topology.chip.memory:
        continue
      report = self.report(run, other, sampler=False)
      if report.fits:
        return other, report
      tries += 1
      # What is now known is of a setting more like the next ones.
      predict = Prediction(run, other, report)
    return None

  def sweep(self, run: Run, setting: Setting) -> Iterator[Report]:
    """Meshes and remat policies, for the batch cut up and the optimiser placed as configured."""
    for other in settings(run, self.topology):
      if (other.accumulate, other.offload) == (setting.accumulate, setting.offload):
        yield self.report(run, other, sampler=False)


def settings(run: Run, topology: Topology) -> list[Setting]:
  """All that divide the devices, the batch and the heads."""
  config = run.config
  remats = list(POLICIES) if 'remat' in config.model else ['']
  parts = [config.train.accumulate * 2**i for i in range(4)]
  found = []
  for mesh, remat, accumulate, offload in itertools.product(
    meshes(run, topology), remats, parts, (False, True)
  ):
    if config.data.batch_size % (accumulate * mesh[0] * mesh[1]) == 0:
      found.append(Setting(mesh, remat, accumulate, offload))
  return found


def meshes(run: Run, topology: Topology) -> list[Sizes]:
  """Those worth comparing: slices along data, up to eight devices to a sample."""
  found: list[Sizes] = []
  for data, fsdp, sequence, tensor in factorisations(topology.devices):
    shared = sequence * tensor
    slices = topology.slices if topology.chip.platform == 'tpu' else 1
    if data not in (slices, topology.devices // shared) or data % slices:
      continue
    if shared <= 8:
      mesh = abstract_mesh((data, fsdp, sequence, tensor))
      try:
        run.check(mesh.shape)
        abstract_state(run, mesh)
      except InputError:
        continue  # It does not divide the heads, or too few of the parameters.
      found.append((data, fsdp, sequence, tensor))
  return found


def distance(a: Setting, b: Setting) -> float:
  """How unlike two settings are: of those that fit, the least unlike costs least."""
  names = ['', *POLICIES]
  more = names.index(b.remat) - names.index(a.remat)
  # What recomputes less than was asked for is not looked for.
  remat = more if more >= 0 else 100
  parts = 1.5 * math.log2(b.accumulate / a.accumulate)
  mesh = 1.25 * sum(x != y for x, y in zip(a.mesh, b.mesh, strict=True))
  return remat + parts + mesh + 3 * (a.offload != b.offload)


class Prediction:
  """Guesses what other settings need, from what one was found to need; rather too little."""

  def __init__(self, run: Run, setting: Setting, found: Report):
    self._run = run
    self._kept: dict[str, float] = {}
    self._base = self._activations(setting)
    state, gradients = self._state(setting)
    # What is no gradient grows with the samples that a device has at once.
    rest = found.memory.total - state - gradients
    self._rest = max(rest, 0.0) * _share(setting)

  def __call__(self, setting: Setting) -> float:
    """Bytes of a device."""
    # What is recomputed is not kept, nor is what its gradient needs besides.
    part = min(self._activations(setting) / max(self._base, 1.0), 1.0)
    return sum(self._state(setting)) + part * self._rest / _share(setting)

  def _activations(self, setting: Setting) -> float:
    """Bytes kept for the backward pass, on all devices together."""
    remat = setting.remat
    if remat not in self._kept:
      run = self._run.changed(setting.changes())
      # Those that are sent to the host do not stay.
      kept = 0.0 if remat == 'offload' else analytic.activations(run)
      self._kept[remat] = kept
    return self._kept[remat]

  def _state(self, setting: Setting) -> tuple[float, float]:
    """The state, and gradients like the parameters."""
    run = self._run.changed(setting.changes())
    held = memory.held(abstract_state(run, abstract_mesh(setting.mesh)), {}, 0.0)
    return held.total, held.parameters


def _share(setting: Setting) -> int:
  """Into how many parts the activations of a batch are cut."""
  return math.prod(setting.mesh) * setting.accumulate


def _named(setting: Setting) -> str:
  mesh = 'x'.join(map(str, setting.mesh))
  return f'mesh {mesh}' + (f', remat {setting.remat}' if setting.remat else '')
