"""A trained run prepared for export: lazily loaded weights, and settings for PyTorch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ttm_jax.codecs.base import Codec
from ttm_jax.data.context import Context
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.exporting.files import Spec
from ttm_jax.guidance_inputs import ranges
from ttm_jax.models.preset import TorchModel
from ttm_jax.presets import preset
from ttm_jax.tasks import CONCAT
from ttm_jax.text.encoders import WORDS
from ttm_jax.training import runs
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.sources import of_run
from ttm_jax.training.students import is_student
from ttm_jax.untrusted import identifier, is_repository

Tensors = Iterator[tuple[str, np.ndarray]]


class StageRun:
  """A trained stage that can be exported.

  Attributes:
    run: run directory.
    config: training configuration.
    context: encoding of the clips, with the codec and the encoded empty text.
    step: step of the newest checkpoint, which is exported.
    params: nested dict of the plain EMA parameters; each is read, and merged with its adapter if
      it has one, when it is converted to NumPy.
    torch: the PyTorch counterpart of the network.
    sizes: configuration of the network.
    process: noise process of the stage.
    specs: names and shapes of the exported tensors.
    settings: sampling settings of the stage, as the pipeline expects them.
    base: open weights from which the run, or the first run in its chain, was initialized.
  """

  def __init__(self, run: Path, task: str):
    """Read everything of a run except its weights.

    Args:
      run: run directory.
      task: task that the run must have been trained for.

    Raises:
      InputError: the run does not exist, has a corrupt file or no checkpoint, or the checkpoint
        does not match the configuration. Also if its task is another one, or its preset has no
        PyTorch counterpart.
    """
    self.run = run
    try:
      self._read(task)
    except InputError:
      raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
      raise InputError(
        f'run {run} is damaged ({reason}): take {runs.CONFIG} and context/ from a copy of it'
      ) from error

  def _read(self, task: str) -> None:
    run = self.run
    self.config = runs.read_config(run)
    if self.config.task != task:
      raise InputError(f'run {run} was trained for {self.config.task!r}, {task!r} is needed')
    try:
      torch = preset(self.config.preset).torch
    except InputError as error:
      raise InputError(f'run {run} cannot be exported: {error}') from error
    if torch is None:
      raise InputError(
        f'run {run}: preset {self.config.preset!r} has no PyTorch counterpart, so that it cannot be'
        ' exported'
      )
    self.torch: TorchModel = torch
    self.context = Context.load(run)
    if self.context.encoding.trajectory == FLOW:
      raise InputError(f'run {run} was trained on optical flow, which exported folders do not take')
    for name in self.context.encoding.encoders:
      identifier(name, f'{run}/context/context.json: encoders')
    source = of_run(run)
    self.step, self.params = source.step, source.params
    denoiser = Denoiser(self.config, self.context)
    abstract = nnx.eval_shape(lambda: denoiser.build(0))
    wanted = jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))
    found = jax.tree.map(lambda x: tuple(x.shape), self.params)
    runs.check_same_parameters(wanted, found, run)
    self.sizes, self.process = denoiser.model_config, denoiser.process
    self.specs = [Spec(*pair) for pair in torch.specs(self.params, self.sizes)]
    self.settings = self._settings()
    self.base = base_weights(self.config)

  def tensors(self) -> Tensors:
    """Yield the (name, array) pairs of `specs` one at a time."""
    return self.torch.to_torch(self.params, self.sizes)

  def _settings(self) -> dict[str, Any]:
    sampling = self.config.sample
    return {
      'palette': self.context.encoding.palette,
      'grids': [list(grid) for grid in self.context.encoding.grids],
      'cross_mask': self.config.data.cross_mask,
      'first_frame': self.config.get('first_frame', CONCAT),
      'steps': self.config.process.steps,
      'visual_scale': sampling.visual_scale,
      'text_scale': sampling.text_scale,
      'rescale': sampling.rescale,
      'student': self.config.distill.method if is_student(self.config) else '',
      'scale_ranges': {
        name: list(pair) for name, pair in ranges(self.config.get('distill')).items()
      },
    }

  @property
  def texts(self) -> dict[str, Any]:
    """Text encoders and limits of the stage, as the exported text encoder expects them."""
    encoding = self.context.encoding
    return {
      'encoders': [
        {'name': name, **dataclasses.asdict(sizes)} for name, sizes in encoding.encoders.items()
      ],
      'max_objects': encoding.max_objects,
      'prefix': encoding.prefix,
    }


def base_weights(config: ConfigDict) -> list[str]:
  """Return the open weights at the start of the chain of runs that `init_from` names.

  Returns:
    Hub ids or folders. A missing run gives one entry that names the run. The list is empty if
    training started from scratch.

  Raises:
    TypeError: `init_from` is not a string.
  """
  seen: set[str] = set()
  while True:
    if not isinstance(config.init_from, str):
      raise TypeError(f'init_from is {config.init_from!r}')
    if not config.init_from or config.init_from in seen:
      return []
    seen.add(config.init_from)
    if config.init_from.startswith('pretrained:'):
      names = config.init_from.removeprefix('pretrained:')
      return [part.strip() for part in names.split(',')]
    if not (Path(config.init_from) / runs.CONFIG).exists():
      return [f'the run {Path(config.init_from).name}']
    config = runs.read_config(config.init_from)


def models_of(stages: Sequence[StageRun], given: Mapping[str, str]) -> dict[str, str]:
  """Return the hub id or folder of each pretrained text encoder of the stages, by name.

  A folder is accepted only if the user names it. A run may come from another person, and could name
  a private folder that must not be published.

  Args:
    stages: the stages to export.
    given: hub ids or folders that the user names, by encoder name.

  Raises:
    InputError: the model of an encoder is unknown, missing, or a folder that the user has not
      named. Also if the stages use different models under one name.
  """
  found: dict[str, str] = {}
  for stage in stages:
    encoding = stage.context.encoding
    for name in (name for name in encoding.encoders if name != WORDS):
      reads = f'run {stage.run} reads texts by {name!r}'
      model = given.get(name, encoding.models.get(name))
      if not model:
        raise InputError(
          f'{reads}: say which model that is, with --text {name}=MODEL (hub id or folder)'
        )
      if name in given:
        if model.startswith(('/', '.', '~')) and not Path(model).is_dir():
          raise InputError(
            f'{reads} from {model}, which is not here: name the model with --text {name}=MODEL (hub'
            ' id or folder)'
          )
      elif not is_repository(model) or Path(model).exists():
        raise InputError(
          f'{reads} from the folder {model}: only folders named in the command are copied; write'
          f' --text {name}={model} to copy it, or --text {name}=MODEL with a hub id'
        )
      if found.setdefault(name, model) != model:
        raise InputError(
          f'the stages read texts by {name!r} from different models, {found[name]} and {model}: say'
          f' which one counts, with --text {name}=MODEL'
        )
  return found


def check_together(stages: Sequence[StageRun]) -> None:
  """Check that stages share one video format and one codec.

  Raises:
    InputError: the stages differ in frames, height, width, fps, or codec.
  """
  first, *others = stages
  for other in others:
    a, b = first.context.encoding, other.context.encoding
    for field in ('frames', 'height', 'width', 'fps'):
      if getattr(a, field) != getattr(b, field):
        raise InputError(
          f'the stages differ in {field}: {getattr(a, field)} in stage 1, {getattr(b, field)} in'
          ' stage 2; train both on one dataset'
        )
    if not same_codec(first.context.codec, other.context.codec):
      presets = first.config.preset, other.config.preset
      what = '' if presets[0] == presets[1] else f' and presets ({presets[0]}, {presets[1]})'
      raise InputError(
        f'the stages have different codecs{what}: {first.run} and {other.run} cannot share one'
        ' folder; train both on latents of one codec'
      )


def same_codec(a: Codec, b: Codec) -> bool:
  """Return whether two codecs have the same class, structure and weights."""
  one: Any = jax.tree.structure(a)
  if type(a) is not type(b) or one != jax.tree.structure(b):
    return False
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in pairs)
