"""Search for settings of a run that fit in memory, and compare settings."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from ttm_jax.errors import InputError
from ttm_jax.ops.rematerialization import POLICIES
from ttm_jax.parallel.mesh import AXES, check_batch, factorisations, make_mesh, mesh_sizes
from ttm_jax.planning import analytic, memory, sampler_report
from ttm_jax.planning.analytic import abstract_mesh
from ttm_jax.planning.compile import Run, abstract_state, tpu_devices
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.layout import TooLarge
from ttm_jax.planning.report import Report, analytic_report, compiled_report, too_large
from ttm_jax.planning.sampler_report import SamplerReport

Sizes = tuple[int, ...]

# Maximum number of settings to compile while searching for one that fits.
TRIES = 5


@dataclasses.dataclass(frozen=True)
class Setting:
  """Execution options that do not change the result of a run.

  Attributes:
    mesh: sizes of the mesh axes, in the order of `AXES`.
    remat: a key of `rematerialization.POLICIES`; '' if the network has no such option.
    accumulate: number of microbatches of a batch (gradient accumulation).
    offload: whether the optimizer state is in host memory.
  """

  mesh: Sizes
  remat: str
  accumulate: int
  offload: bool

  def changes(self) -> dict[str, Any]:
    """Return the setting as configuration values by dotted key."""
    found = {f'mesh.{axis}': size for axis, size in zip(AXES, self.mesh, strict=True)}
    found |= {'train.accumulate': self.accumulate, 'optimizer.offload': self.offload}
    return found | ({'model.remat': self.remat} if self.remat else {})

  def flags(self, config: Any) -> str:
    """Return the command line flags that change a configuration to this setting."""
    values = {
      key: value
      for key, value in self.changes().items()
      if config[key.split('.')[0]][key.split('.')[1]] != value
    }
    return ' '.join(f'--config.{key}={value}' for key, value in values.items())


class Planner:
  """Plans runs on one topology.

  TPU runs are compiled; GPU runs are estimated analytically.

  Attributes:
    topology: the target hardware.
    progress: called with a message; returns a context manager that is active during the work.
  """

  def __init__(self, topology: Topology, progress: Callable[[str], Any], sampler: bool = True):
    self.topology, self.progress, self._sampler = topology, progress, sampler
    self._devices = tpu_devices(topology) if topology.chip.platform == 'tpu' else None

  def setting(self, run: Run) -> Setting:
    """Return the setting of the configuration, with the mesh sizes resolved.

    Raises:
      InputError: the mesh does not divide the devices, the batch or the heads.
    """
    config = run.config
    sizes = mesh_sizes(config.mesh, self.topology.devices)
    # With several slices, make_mesh also checks the mesh against the slices of the devices.
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
    """Return the report of one setting. If the compiler runs out of memory, `fits` is false.

    Args:
      run: the run.
      setting: the setting to apply to it.
      sampler: whether to compile the sampler too; None for the default of the planner.
    """
    run = run.changed(setting.changes())
    if self._devices is None:
      return analytic_report(run, setting.mesh, self.topology)
    mesh = make_mesh(dict(zip(AXES, setting.mesh, strict=True)), self._devices)
    wanted = self._sampler if sampler is None else sampler
    with self.progress(f'Compiling for {self.topology.title}: {_named(setting)}'):
      try:
        return compiled_report(run, mesh, self.topology, wanted)
      except TooLarge as error:
        return too_large(run, mesh, self.topology, error.needed)

  def sampler(self, run: Run, setting: Setting) -> SamplerReport:
    """Return the report of the sampler alone in one setting."""
    if self._devices is None:
      return sampler_report.estimated(run, abstract_mesh(setting.mesh), self.topology)
    mesh = make_mesh(dict(zip(AXES, setting.mesh, strict=True)), self._devices)
    with self.progress(f'Compiling the sampler for {self.topology.title}'):
      return sampler_report.compiled(run, mesh, self.topology)

  def nearest(self, run: Run, setting: Setting, found: Report) -> tuple[Setting, Report] | None:
    """Return the nearest setting that fits, and its report; None if TRIES attempts fail.

    Args:
      run: the run.
      setting: a setting that does not fit.
      found: its report.
    """
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
      # This setting is closer to the remaining candidates than the previous one.
      predict = Prediction(run, other, report)
    return None

  def sweep(self, run: Run, setting: Setting) -> Iterator[Report]:
    """Yield reports of all meshes and remat policies.

    Gradient accumulation and optimizer offloading stay as configured.
    """
    for other in settings(run, self.topology):
      if (other.accumulate, other.offload) == (setting.accumulate, setting.offload):
        yield self.report(run, other, sampler=False)


def settings(run: Run, topology: Topology) -> list[Setting]:
  """Return all settings that divide the devices, the batch and the heads."""
  config = run.config
  remats = list(POLICIES) if 'remat' in config.model else ['']
  parts = [config.train.accumulate * 2**i for i in range(4)]
  return [
    Setting(mesh, remat, accumulate, offload)
    for mesh, remat, accumulate, offload in itertools.product(
      meshes(run, topology), remats, parts, (False, True)
    )
    if config.data.batch_size % (accumulate * mesh[0] * mesh[1]) == 0
  ]


def meshes(run: Run, topology: Topology) -> list[Sizes]:
  """Return the meshes worth comparing.

  Axis `data` equals the number of slices, or all devices that do not share a sample. At most eight
  devices (`sequence` x `tensor`) share a sample.
  """
  slices = topology.slices if topology.chip.platform == 'tpu' else 1
  found = []
  for sizes in factorisations(topology.devices):
    data, _, sequence, tensor = sizes
    shared = sequence * tensor
    if shared > 8 or data % slices or data not in (slices, topology.devices // shared):
      continue
    mesh = abstract_mesh(sizes)
    # Skip meshes that do not divide the heads or shard too few parameters.
    with contextlib.suppress(InputError):
      run.check(mesh.shape)
      abstract_state(run, mesh)
      found.append(sizes)
  return found


def distance(a: Setting, b: Setting) -> float:
  """Return a heuristic distance from setting `a` to `b`; it approximates the loss of speed."""
  names = ['', *POLICIES]
  more = names.index(b.remat) - names.index(a.remat)
  # The penalty rules out policies that recompute less than the configured one.
  remat = more if more >= 0 else 100
  parts = 1.5 * math.log2(b.accumulate / a.accumulate)
  mesh = 1.25 * sum(x != y for x, y in zip(a.mesh, b.mesh, strict=True))
  return remat + parts + mesh + 3 * (a.offload != b.offload)


class Prediction:
  """Predicts the memory of other settings from the report of one; tends to underestimate."""

  def __init__(self, run: Run, setting: Setting, found: Report):
    self._run = run
    self._kept: dict[str, float] = {}
    self._base = self._activations(setting)
    state, gradients = self._state(setting)
    # Memory other than state and gradients scales with the samples per device and microbatch.
    rest = found.memory.total - state - gradients
    self._rest = max(rest, 0.0) * _share(setting)

  def __call__(self, setting: Setting) -> float:
    """Return the predicted bytes of one device."""
    # Recomputed activations are not kept. Assume that the other temporaries shrink in proportion.
    part = min(self._activations(setting) / max(self._base, 1.0), 1.0)
    return sum(self._state(setting)) + part * self._rest / _share(setting)

  def _activations(self, setting: Setting) -> float:
    """Return the bytes kept for the backward pass, on all devices together."""
    remat = setting.remat
    if remat not in self._kept:
      run = self._run.changed(setting.changes())
      # Offloaded activations take no device memory.
      kept = 0.0 if remat == 'offload' else analytic.activations(run)
      self._kept[remat] = kept
    return self._kept[remat]

  def _state(self, setting: Setting) -> tuple[float, float]:
    """Return the bytes of the train state and of the gradients, which equal the parameters."""
    run = self._run.changed(setting.changes())
    held = memory.held(abstract_state(run, abstract_mesh(setting.mesh)), {}, 0.0)
    return held.total, held.parameters


def _share(setting: Setting) -> int:
  """Return the number of parts into which the activations of a batch are split."""
  return math.prod(setting.mesh) * setting.accumulate


def _named(setting: Setting) -> str:
  mesh = 'x'.join(map(str, setting.mesh))
  return f'mesh {mesh}' + (f', remat {setting.remat}' if setting.remat else '')
