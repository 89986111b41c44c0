"""Parameters of runs, and of open weights and exported folders, read when they are used.

The parameters of a run are its EMA parameters. For a LoRA run these are the plain parameters that
compute the same: those of its base, with the adapters merged into the kernels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax import exported_folder
from ttm_jax.data.context import read_encoding
from ttm_jax.errors import InputError
from ttm_jax.models.preset import Preset
from ttm_jax.nn import lora
from ttm_jax.nn.lora import LoRAConfig
from ttm_jax.presets import model_config, preset
from ttm_jax.settings import from_config
from ttm_jax.training import digests, fingerprint, runs
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.partial import by_name, split
from ttm_jax.training.students import STUDENT, is_student
from ttm_jax.training.transfers import Transfer

# Prefix of `init_from` values that name open weights or an exported folder instead of a run.
PRETRAINED = 'pretrained:'


@dataclasses.dataclass(frozen=True)
class Source:
  """Parameters in files.

  Attributes:
    params: nested dict of float32 arrays, or of objects that read them: with `shape`, `__array__`,
      and often `__getitem__` for slices.
    check: called with the checksums of all parameters (see `placing.place`) once they are read;
      raises InputError if these are not the values that were saved.
    files: the files of open weights; empty for a run.
    step: the step of the checkpoint; 0 for open weights.
    close: called after all parameters are read; they cannot be read later.
    others: further arrays of the checkpoint, whose values its checksum covers.
  """

  params: dict[str, Any]
  check: Callable[[Sequence[int]], None] = lambda sums: None
  files: frozenset[Path] = frozenset()
  step: int = 0
  close: Callable[[], None] = lambda: None
  others: Sequence[Any] = ()


def settings(config: ConfigDict) -> LoRAConfig:
  """Return the settings of the adapters of a run; runs of earlier versions have none."""
  section = config.get('lora')
  return from_config(LoRAConfig, section, 'lora') if section else LoRAConfig()


def open_weights(names: str, backbone: Preset, sizes: Any) -> Source:
  """Return the parameters of open weights or of an exported folder.

  Args:
    names: folders or hub ids, as the preset expects them, or an exported folder.
    backbone: the preset.
    sizes: its model config.

  Raises:
    InputError: if they cannot be read, or their architecture differs.
  """
  read = backbone.open_weights
  if exported_folder.is_exported(names):
    read = exported_folder.load
  if read is None:
    raise InputError(
      f'{names} is not an exported folder, and preset {backbone.name!r} has no open weights:'
      f' --config.init_from takes a run, or {PRETRAINED}FOLDER'
    )
  params = read(names, sizes)
  files = (getattr(x, 'files', ()) for x in jax.tree.leaves(params))
  return Source(params, files=frozenset().union(*files))


def of_run(run: epath.PathLike, adapting: tuple[str, ...] = ()) -> Source:
  """Return the plain EMA parameters of a run: of its newest checkpoint, or of its best one.

  The best one is used if the run keeps it (`train.keep_best`).

  Args:
    run: run directory.
    adapting: the LoRA runs whose base this is.

  Raises:
    InputError: if there is no run or no checkpoint, it is corrupt, or the base of a LoRA run is
      missing or another one.
  """
  config, checkpoints, step = _chosen(run)
  stored = checkpoints.stored_ema(step)
  if settings(config).rank:
    if (path := str(checkpoints.directory)) in adapting:
      raise InputError(f'run {run} is its own base: correct init_from in {run}/{runs.CONFIG}')
    adapted = AdaptedRun(run, config, stored)
    base = adapted.base((*adapting, path))

    def close() -> None:
      base.close()
      checkpoints.close()

    return Source(adapted.plain(base.params), step=step, close=close)

  others: list[Any] = []
  if is_student(config):
    # Of a student's run, only the student is of use. Its critic comes before it in the checksum.
    others = jax.tree.leaves({name: x for name, x in stored.items() if name != STUDENT})
    stored = stored[STUDENT]

  def check(sums: Sequence[int]) -> None:
    before = [digests.sum_on_host(np.asarray(x)) for x in others]
    checkpoints.check_ema(step, digests.of_sums([*before, *sums]))

  return Source(stored, check, step=step, close=checkpoints.close, others=others)


def adapted_run(run: epath.PathLike) -> 'AdaptedRun | None':
  """Return the trained EMA parameters of a LoRA run, or None for another run.

  Raises:
    InputError: if there is no run or no checkpoint, or it is corrupt.
  """
  config, checkpoints, step = _chosen(run)
  if not settings(config).rank:
    return None
  return AdaptedRun(run, config, checkpoints.stored_ema(step))


def _chosen(run: epath.PathLike) -> tuple[ConfigDict, Checkpoints, int]:
  """Return the configuration of a run, its checkpoints, and the step of the one to read."""
  config = runs.read_config(run)
  checkpoints = Checkpoints(epath.Path(run) / runs.CHECKPOINTS, read_only=True)
  step = checkpoints.best() if config.train.get('keep_best') else None
  if step is None:
    step = checkpoints.latest()
  if step is None:
    raise InputError(f'run {run} has no checkpoint yet: train it longer, or give another run')
  return config, checkpoints, step


def read_parameters(run: epath.PathLike) -> dict[str, Any]:
  """Return the plain EMA parameters of a run, see `of_run`, as NumPy arrays.

  Raises:
    InputError: see `of_run`.
  """
  return read_all(of_run(run))


def read_all(source: Source) -> dict[str, Any]:
  """Return all parameters of a run as NumPy arrays, and close it.

  Raises:
    InputError: if the checkpoint is corrupt.
  """
  leaves, structure = jax.tree.flatten((source.params, source.others))
  try:
    with ThreadPoolExecutor() as pool:  # Several arrays are read and decompressed at a time.
      return jax.tree.unflatten(structure, pool.map(np.asarray, leaves))[0]
  except InputError as error:
    raise InputError(f'{error}; remove it to use the one before') from error
  finally:
    source.close()


class AdaptedRun:
  """The trained parameters of a LoRA run, and what they adapt.

  Attributes:
    run: run directory.
    config: its configuration.
    lora: settings of the adapters.
    preset, sizes: the backbone and its model config.
    shapes: nested dict of the shapes of all plain parameters.
    trained: nested dict of the trained parameters, which are read when they are used.
  """

  def __init__(self, run: epath.PathLike, config: ConfigDict, trained: dict[str, Any]):
    """Check that trained parameters are those of the configuration; read none.

    Raises:
      InputError: if they are not.
    """
    self.run, self.config, self.trained = run, config, trained
    self.lora = settings(config)
    self.preset, self.sizes = preset(config.preset), model_config(config)
    encoders = read_encoding(run).encoders

    def network(adapted: bool) -> nnx.Module:
      model = self.preset.build(self.sizes, encoders)
      if adapted:
        self.preset.adapt(model, self.lora)
      return model

    plain = nnx.eval_shape(lambda: network(False))
    self.shapes = nnx.to_pure_dict(nnx.state(plain, nnx.Param))
    self._frozen = self.preset.frozen(plain, self.sizes, self.lora)
    adapted = nnx.state(nnx.eval_shape(lambda: network(True)), nnx.Param)
    wanted, _ = split(nnx.to_pure_dict(adapted), self._frozen)
    wanted, found = (jax.tree.map(lambda x: tuple(x.shape), tree) for tree in (wanted, trained))
    runs.check_same_parameters(wanted, found, run)

  def base(self, adapting: tuple[str, ...]) -> Source:
    """Return the parameters that the run started from; see `of_run`."""
    start = self.config.init_from
    if start.startswith(PRETRAINED):
      return open_weights(start.removeprefix(PRETRAINED), self.preset, self.sizes)
    return of_run(start, adapting)

  def plain(self, base: dict[str, Any]) -> dict[str, Any]:
    """Return the plain parameters, merged with the adapters one by one, when they are used.

    Args:
      base: the parameters that the run started from.

    Raises:
      InputError: if that is another base; here, or when a parameter is read.
    """
    wanted = fingerprint.read(self.run)
    named, start = by_name(base), self.config.init_from
    found = {name: [list(x.shape)] for name, x in named.items()}
    fingerprint.check(found, wanted, self.run, start)
    transfer = Transfer(self.preset.transfer, base, self.shapes)

    def verified(name: str) -> np.ndarray:
      value = np.asarray(named[name])
      fingerprint.check_value(name, digests.sum_on_host(value), wanted, self.run, start)
      return value

    source = {name: Computed(x.shape, partial(verified, name)) for name, x in named.items()}
    trained = by_name(self.trained)

    def value(name: str) -> np.ndarray:
      # Rounded as in training.
      kernel = transfer.value(name, source).astype(self._frozen[name]).astype(np.float32)
      layer = name.removesuffix('kernel')
      if f'{layer}{lora.A}' not in trained:
        return kernel
      a, b = (np.asarray(trained[f'{layer}{part}']) for part in (lora.A, lora.B))
      return lora.merged(kernel, a, b, self.lora.scale)

    return jax.tree.unflatten(
      jax.tree.structure(self.shapes),
      [
        Computed(x.shape, partial(value, name)) if name in self._frozen else trained[name]
        for name, x in by_name(self.shapes).items()
      ],
    )


class Computed:
  """An array that is computed when NumPy asks for it.

  Attributes:
    shape: shape of the array.
  """

  def __init__(self, shape: tuple[int, ...], compute: Callable[[], np.ndarray]):
    self.shape = shape
    self._compute = compute

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(self._compute(), dtype)
