"""Registry of presets: each combines a backbone with its process, codec and text encoders.

To add a backbone, create its folder in `ttm_jax/models/` and add its preset here, or call
`register` from your own code.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from ttm_jax.errors import InputError, nearest
from ttm_jax.guidance_inputs import ranges
from ttm_jax.models.dit.preset import PRESET as DIT
from ttm_jax.models.preset import Preset
from ttm_jax.models.unet.preset import PRESET as UNET
from ttm_jax.models.wan.preset import PRESET as WAN
from ttm_jax.settings import from_config
from ttm_jax.tasks import CHANGE, CLEAN, CONCAT, FIRST_FRAME, TASKS

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DIT, UNET, WAN)}


def register(preset: Preset) -> None:
  """Register a preset under its name; registering the same object again is allowed.

  Raises:
    ValueError: If another preset has that name.
  """
  if PRESETS.setdefault(preset.name, preset) is not preset:
    raise ValueError(f'there is a preset {preset.name!r} already: choose another name')


def preset(name: str) -> Preset:
  """Return the preset of that name.

  Raises:
    InputError: If there is no such preset.
  """
  if name not in PRESETS:
    raise InputError(
      f'preset {name!r} is unknown: choose one of {sorted(PRESETS)}{nearest(name, PRESETS)}'
    )
  return PRESETS[name]


def preset_of_network(class_name: str) -> Preset | None:
  """Return the preset whose PyTorch network has this class name, or None."""
  found = (p for p in PRESETS.values() if p.torch is not None and p.torch.network == class_name)
  return next(found, None)


def model_config(config: ConfigDict) -> Any:
  """Return the model config dataclass of a run.

  `visual_channels` is set by the task and `config.first_frame`: the number of visual latents times
  the latent channels. `guidance_inputs` is set by the ranges in `config.distill`.

  Raises:
    InputError: If the task, the preset or a field of `config.model` is unknown, or a value is
      invalid. Also if there are ranges, and the preset has no guidance scales as inputs.
  """
  if config.task not in TASKS:
    raise InputError(
      f'task {config.task!r} is unknown: choose one of {sorted(TASKS)}{nearest(config.task, TASKS)}'
    )
  first, chosen = config.get('first_frame', CONCAT), preset(config.preset)
  if first not in FIRST_FRAME:
    raise InputError(f'config.first_frame must be one of {FIRST_FRAME}, got {first!r}')
  if first == CLEAN and not chosen.frame_times:
    raise InputError(
      f'preset {chosen.name!r} has one time for all frames, so that it cannot take a first frame'
      f' without noise: set --config.first_frame={CONCAT} or {CHANGE}'
    )
  sizes: Any = from_config(chosen.config, config.model, 'model')
  visual = len(TASKS[config.task].concatenated(first)) * sizes.channels
  sizes = dataclasses.replace(sizes, visual_channels=visual)
  if not ranges(config.get('distill')):
    return sizes
  if not hasattr(sizes, 'guidance_inputs'):
    raise InputError(
      f'preset {chosen.name!r} takes no guidance scales as inputs: leave out'
      ' config.distill.visual_range and config.distill.text_range'
    )
  return dataclasses.replace(sizes, guidance_inputs=True)
