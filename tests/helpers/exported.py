"""Runs with random weights, which export treats like trained ones, and their exported folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from tests.helpers import tiny
from ttm_jax import trajectory
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, null_text
from ttm_jax.inference.pipeline import Request
from ttm_jax.presets import PRESETS
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.training import runs, spike_guard
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.denoising import Denoiser
from ttm_jax.training.state import TrainState

STEPS = 10  # Sampling steps.
WORDS = {'words': TextEncoderSpec(16, 16, 8)}
NAMES = {
  'dit': ('demo_stage1', 'demo_stage2', 'ti2v_dit'),
  'unet': ('demo_unet_stage1', 'demo_unet_stage2', 'ti2v_unet'),
}
STAGE1, STAGE2, TI2V = range(3)


def codec(preset: str, seed: int = 0) -> LinearCodec:
  patch = (2, 4, 4) if preset == 'dit' else (2, 2, 2)
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (3, tiny.FRAMES, 4, 4, 3)).astype(np.uint8)
  return LinearCodec.fit(small.repeat(4, 2).repeat(4, 3), patch, tiny.CHANNELS)


def context(preset: str, encoders=WORDS, texts=TEXT_ENCODERS, made=None) -> Context:
  made = made or codec(preset)
  down, right = made.stride
  chosen = PRESETS[preset]
  encoding = Encoding(
    preset=preset,
    frames=tiny.FRAMES,
    height=tiny.SIDE,
    width=tiny.SIDE,
    fps=tiny.FPS,
    palette='spread8',
    max_objects=3,
    encoders=dict(encoders),
    grids=chosen.grids(chosen.config(), tiny.SIDE // down, tiny.SIDE // right),
  )
  return Context(encoding, made, null_text(encoding, texts))


def config(preset: str, number: int, **changes: Any):
  """Return the configuration of one of the three networks of a preset, with guidance."""
  made = tiny.shrunk(NAMES[preset][number], **changes)
  made.process.steps = STEPS
  made.model.dtype = 'float32'
  made.sample.update({'visual_scale': 1.5, 'text_scale': 2.0, 'rescale': 0.5})
  return made


def parameters(settings, where: Context, seed: int = 0) -> dict[str, Any]:
  """Return random parameters, also for weights and gates that start at zero."""
  denoiser = Denoiser(settings, where)
  abstract = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: denoiser.build(0)), nnx.Param))
  rng = np.random.default_rng(seed)

  def drawn(path, leaf):
    spread = 0.1 * rng.normal(size=leaf.shape)
    return np.asarray(spread + ('scale' in str(path[-1])), np.float32)

  return jax.tree_util.tree_map_with_path(drawn, abstract)


def save_run(
  path: Path, settings, where: Context, params: Mapping[str, Any], step: int = 3
) -> Path:
  """Write a run directory with these EMA parameters."""
  runs.write_config(path, settings)
  where.save(path)
  # Parameters without EMA, which must not be exported.
  other = jax.tree.map(lambda x: x + 1, params)
  state = TrainState(
    np.int32(step), other, params, {'count': np.zeros(1, np.int32)}, spike_guard.create()
  )
  checkpoints = Checkpoints(path / runs.CHECKPOINTS)
  checkpoints.save(state)
  checkpoints.wait()
  checkpoints.close()
  return path


def make_runs(folder: Path, preset: str) -> tuple[Path, Path]:
  """Make runs of both stages of a preset."""
  where = context(preset)
  made = []
  for number in (STAGE1, STAGE2):
    settings = config(preset, number)
    params = parameters(settings, where, number)
    made.append(save_run(folder / f'stage{number + 1}', settings, where, params))
  return made[0], made[1]


def request(seed: int = 0) -> Request:
  """Return a request: an image with two objects."""
  rng = np.random.default_rng(seed)
  mask = np.zeros((tiny.SIDE, tiny.SIDE), np.uint8)
  mask[2:7, 3:9], mask[9:14, 8:13] = 1, 2
  picture = rng.integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
  prompts = {1: 'a red circle that moves', 2: 'a blue star that stays'}
  return Request(picture, mask, 'A red circle and a blue star.', 'The circle moves left.', prompts)


def moved(mask: np.ndarray) -> np.ndarray:
  """Return a trajectory that starts with a mask."""
  return np.stack([np.roll(mask, shift, 1) for shift in range(tiny.FRAMES)])


def rendered(ids: np.ndarray) -> np.ndarray:
  return trajectory.render(ids, 'spread8')


def arguments(seed: int = 0) -> dict[str, Any]:
  """Return a `request` as the arguments of the PyTorch pipeline."""
  asked = request(seed)
  return {
    'image': asked.picture,
    'prompt': asked.caption,
    'segmentation': asked.mask,
    'motion_prompt': asked.motion,
    'object_prompts': dict(asked.prompts),
  }


def pipe(folder: Path) -> Any:
  """Load the PyTorch pipeline, without a progress bar."""
  from ttm_jax.pytorch import TTMPipeline

  loaded = TTMPipeline.from_pretrained(folder)
  loaded.set_progress_bar_config(disable=True)
  return loaded
