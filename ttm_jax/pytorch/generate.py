"""Animates a picture by an exported folder, as `ttm_jax.generate` does by two runs; without JAX.

    python -m ttm_jax.pytorch.generate FOLDER --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --out out.mp4

Beside out.mp4 it writes the trajectory (out_trajectory/, one palette PNG a frame, and
out_trajectory.mp4, laid over the video) and out_side_by_side.mp4. Edit the PNGs, or make your own,
and give them back with --trajectory FOLDER and another --out: stage 1 is then skipped.

Where --segmentation, --motion or --object is not given, models find it (extra `data`):

    python -m ttm_jax.pytorch.generate FOLDER --image photo.png \\
        --prompt "A brown dog runs on a beach." --llm LLM --detector GROUNDING_DINO --sam SAM2 \\
        --out out.mp4

What they found is printed, and shown in out_found.png, before anything is generated. A file of
`data_tools.describe` brings it too, with --described FILE; its embeddings are not used, the folder
embeds the sentences itself.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.cli_args import parse_texts
from ttm_jax.inference.command import (
  add_flags,
  check_outputs,
  checked_out,
  described_by,
  keep_trajectory,
  read_trajectory,
  say_fit,
  say_start,
  write,
)
from ttm_jax.inference.request import fit

DTYPES = ('auto', 'float32', 'bfloat16', 'float16')

# The parts of an exported folder that are read.
_PARTS = (
  'model_index.json',
  'SHA256SUMS',
  'stage1',
  'stage2',
  'motion_scheduler',
  'scheduler',
  'codec',
  'text_encoder',
)


def main() -> None:
  args = parser().parse_args()
  out = checked_out(args)
  models = {
    # A path is the user's here, not one beside the configuration.
    name: str(Path(model).resolve()) if Path(model).is_dir() else model
    for name, model in parse_texts(args.text).items()
  }
  if args.dtype not in DTYPES:
    raise InputError(f'--dtype {args.dtype}: choose {", ".join(DTYPES)}')
  # Not before the flags are checked: PyTorch takes seconds to import, and may be missing.
  import torch

  from .loading import find_folder
  from .pipeline import TTMPipeline

  device = checked_device(args.device)
  usual = 'float32' if device == 'cpu' else 'bfloat16'
  dtype = getattr(torch, usual if args.dtype == 'auto' else args.dtype)
  folder = find_folder(args.folder, args.offline)
  height, width, frames = (video_of(folder)[name] for name in ('height', 'width', 'frames'))
  networks = {'FOLDER': [folder / part for part in _PARTS]}
  check_outputs(args, out, (frames, height, width), networks)
  described = described_by(args, out, max_objects=max_objects(folder))
  ids = None if args.trajectory is None else read_trajectory(args.trajectory)
  say_fit(described.segmentation, height, width)
  if ids is not None:
    ids = np.stack([fit(frame, height, width, nearest=True) for frame in ids])
    say_start(fit(described.segmentation, height, width, nearest=True), ids[0])
  left_out: dict[str, Any] = {} if ids is None else {'stage1': None, 'motion_scheduler': None}
  pipe = TTMPipeline.from_pretrained(folder, dtype, local_files_only=args.offline, **left_out)
  pipe.text_encoder.register_to_config(models={**pipe.text_encoder.config.models, **models})
  if args.offload:
    pipe.enable_model_cpu_offload(device=device)
  else:
    pipe.to(device)
  common = {
    'segmentation': described.segmentation,
    'motion_prompt': described.motion,
    'num_inference_steps': args.steps,
    'visual_scale': args.visual_scale,
    'text_scale': args.text_scale,
  }

  def generator() -> torch.Generator:
    return torch.Generator('cpu').manual_seed(args.seed)

  picture, prompt = described.picture, described.caption
  if ids is None:
    (ids,) = pipe.generate_trajectory(picture, prompt, generator=generator(), **common)
    keep_trajectory(out, ids)
  output = pipe(
    picture,
    prompt,
    object_prompts=dict(described.prompts),
    trajectory=ids,
    generator=generator(),
    **common,
  )
  still, palette = fit(picture, height, width), pipe.config.stages['stage2']['palette']
  pixels = np.stack([np.asarray(frame) for frame in output.frames[0]])
  write(out, still, output.trajectory[0], pixels, palette, pipe.config.video['fps'])


def checked_device(name: str) -> str:
  """The device to compute on; for 'auto' a GPU where there is one.

  Raises:
    InputError: PyTorch does not know it, or this machine has none.
  """
  import torch

  if name == 'auto':
    return 'cuda' if torch.cuda.is_available() else 'cpu'
  try:
    torch.zeros(1, device=name)
  except (RuntimeError, AssertionError, NotImplementedError) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f'--device {name} cannot be used ({reason}): take cpu or auto') from error
  return name


def video_of(folder: Path) -> dict[str, Any]:
  """Frames, height, width and fps of what an exported folder generates.

  Raises:
    InputError: model_index.json does not say.
  """
  from .loading import read_index

  try:
    video = read_index(folder)['video']
    return {name: video[name] for name in ('frames', 'height', 'width', 'fps')}
  except (KeyError, TypeError) as error:
    raise InputError(f'{folder}/model_index.json is damaged: copy the folder again') from error


def max_objects(folder: Path) -> int:
  """The most objects that all stages of an exported folder know."""
  from .loading import read_texts

  return min(stage['max_objects'] for stage in read_texts(folder)['stages'].values())


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    'python -m ttm_jax.pytorch.generate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('folder', help='exported folder, or id on the Hugging Face hub')
  add_flags(made)
  made.add_argument(
    '--offload', action='store_true', help='keep only the part in use on the GPU (accelerate)'
  )
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
