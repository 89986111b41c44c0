"""Create run folders with random weights, for tests of the export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from PIL import Image

from tests.helpers import tiny
from ttm_jax import trajectory
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, null_text
from ttm_jax.inference.pipeline import Request
from ttm_jax.presets import PRESETS, model_config
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.training import digests, fingerprint, runs, spike_guard
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.denoiser import Denoiser
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.partial import split
from ttm_jax.training.sources import read_parameters
from ttm_jax.training.state import TrainState

STEPS = 10  # Sampling steps.
WORDS = {'words': TextEncoderSpec(16, 16, 8)}
NAMES = {
  'dit': ('demo_stage1', 'demo_stage2', 'ti2v_dit'),
  'unet': ('demo_unet_stage1', 'demo_unet_stage2', 'ti2v_unet'),
  'wan': ('demo_wan_stage1', 'demo_wan_stage2', 'ti2v_wan'),
}
STAGE1, STAGE2, TI2V = range(3)


def card_packages(folder: Path) -> set[str]:
  """Return the packages that the model card of an exported folder installs."""
  lines = (folder / 'README.md').read_text().splitlines()
  (line,) = (line for line in lines if 'pip install' in line)
  return set(line.split()[2:])


def codec(preset: str, seed: int = 0) -> LinearCodec:
  """Return a linear codec fitted to random videos."""
  patch = (2, 2, 2) if preset == 'unet' else (2, 4, 4)
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (3, tiny.FRAMES, 4, 4, 3)).astype(np.uint8)
  return LinearCodec.fit(small.repeat(4, 2).repeat(4, 3), patch, tiny.CHANNELS)


def context(
  preset: str, encoders=WORDS, texts=TEXT_ENCODERS, made=None, frames=tiny.FRAMES
) -> Context:
  """Return a context at the size of the tests.

  Args:
    preset: name of the preset.
    encoders: sizes of the text encoders by name.
    texts: the text encoders by name.
    made: the codec; by default a linear codec.
    frames: frames of a clip.
  """
  made = made or codec(preset)
  down, right = made.stride
  sizes = model_config(tiny.shrunk(NAMES[preset][0]))
  encoding = Encoding(
    preset=preset,
    frames=frames,
    height=tiny.SIDE,
    width=tiny.SIDE,
    fps=tiny.FPS,
    palette='spread8',
    max_objects=3,
    encoders=dict(encoders),
    grids=PRESETS[preset].grids(sizes, tiny.SIDE // down, tiny.SIDE // right),
  )
  return Context(encoding, made, null_text(encoding, texts))


def config(preset: str, number: int, **changes: Any):
  """Return the configuration of one of the three networks of a preset, with guidance.

  Args:
    preset: name of the preset.
    number: STAGE1, STAGE2 or TI2V.
    **changes: see `tiny.shrunk`.
  """
  made = tiny.shrunk(NAMES[preset][number], **changes)
  made.process.steps = STEPS
  made.model.dtype = 'float32'
  if number != TI2V:  # Each kind of first frame, by one of the backbones.
    made.first_frame = {'dit': 'change', 'unet': 'concat', 'wan': 'clean'}[preset]
  made.sample.update({'visual_scale': 1.5, 'text_scale': 2.0, 'rescale': 0.5})
  return made


def parameters(settings, where: Context, seed: int = 0) -> dict[str, Any]:
  """Return random parameters, also for weights and gates that are initialized to zero."""
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
  """Write a run folder with a checkpoint whose EMA parameters are `params`; return the folder."""
  runs.write_config(path, settings)
  where.save(path)
  # Exports must use the EMA parameters, so let the others differ.
  other = jax.tree.map(lambda x: x + 1, params)
  state = TrainState(
    np.int32(step), other, params, {'count': np.zeros(1, np.int32)}, spike_guard.create()
  )
  checkpoints = Checkpoints(path / runs.CHECKPOINTS)
  checkpoints.save(state)
  checkpoints.wait()
  checkpoints.close()
  return path


def save_adapted_run(path: Path, preset: str, base: Path, **changes: Any) -> Path:
  """Write a LoRA run of stage 2 with random trained parameters; return the folder.

  Args:
    path: the folder.
    preset: name of the preset.
    base: the run that it adapts.
    **changes: see `tiny.shrunk`.
  """
  changes = {'lora__rank': 2, 'lora__alpha': 3.0, 'lora__base_dtype': 'float32'} | changes
  changes['init_from'] = str(base)
  settings, where = config(preset, STAGE2, **changes), context(preset)
  objective = Denoising(settings, where)
  model = nnx.eval_shape(lambda: objective.build(0))
  shapes, _ = split(nnx.to_pure_dict(nnx.state(model, nnx.Param)), objective.frozen)
  rng = np.random.default_rng(7)
  drawn = jax.tree.map(lambda x: np.asarray(0.1 * rng.normal(size=x.shape), np.float32), shapes)
  save_run(path, settings, where, drawn)
  params = read_parameters(base)
  sums = [digests.sum_on_host(x) for x in jax.tree.leaves(params)]
  fingerprint.write(epath.Path(path), fingerprint.of(params, sums))
  return path


def make_runs(folder: Path, preset: str) -> tuple[Path, Path]:
  """Write and return the run folders of stage 1 and stage 2 of a preset."""
  where = context(preset)
  made = []
  for number in (STAGE1, STAGE2):
    settings = config(preset, number)
    params = parameters(settings, where, number)
    made.append(save_run(folder / f'stage{number + 1}', settings, where, params))
  return made[0], made[1]


def request(seed: int = 0) -> Request:
  """Return a request with a random image and two objects."""
  rng = np.random.default_rng(seed)
  mask = np.zeros((tiny.SIDE, tiny.SIDE), np.uint8)
  mask[2:7, 3:9], mask[9:14, 8:13] = 1, 2
  picture = rng.integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
  prompts = {1: 'a red circle that moves', 2: 'a blue star that stays'}
  return Request(picture, mask, 'A red circle and a blue star.', 'The circle moves left.', prompts)


def flags(path: Path, seed: int = 0) -> list[str]:
  """Write image and mask of `request` to a folder, and return the flags of generate commands."""
  made = request(seed)
  Image.fromarray(made.picture).save(path / 'photo.png')
  trajectory.write_folder(path / 'masks', made.mask[None])
  return [
    f'--image={path}/photo.png',
    f'--segmentation={path}/masks/00000.png',
    f'--prompt={made.caption}',
    f'--motion={made.motion}',
    *(f'--object={i}: {text}' for i, text in made.prompts.items()),
    '--steps=2',
  ]


def moved(mask: np.ndarray) -> np.ndarray:
  """Return a trajectory, uint8 [T, H, W], that starts with `mask` and moves it right."""
  return np.stack([np.roll(mask, shift, 1) for shift in range(tiny.FRAMES)])


def rendered(ids: np.ndarray) -> np.ndarray:
  """Render label maps with the palette of the tests."""
  return trajectory.render(ids, 'spread8')


def arguments(seed: int = 0) -> dict[str, Any]:
  """Return a `request` as keyword arguments of the PyTorch pipeline."""
  asked = request(seed)
  return {
    'image': asked.picture,
    'prompt': asked.caption,
    'segmentation': asked.mask,
    'motion_prompt': asked.motion,
    'object_prompts': dict(asked.prompts),
  }


def pipe(folder: Path) -> Any:
  """Load an exported folder as a PyTorch pipeline without progress bars."""
  from ttm_jax.pytorch import TTMPipeline

  loaded = TTMPipeline.from_pretrained(folder)
  loaded.set_progress_bar_config(disable=True)
  return loaded
