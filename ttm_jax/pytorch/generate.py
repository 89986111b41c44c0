"""Animate an image with an exported folder, as `ttm_jax.generate` does with two runs; without JAX.

    python -m ttm_jax.pytorch.generate FOLDER --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --out out.mp4

Besides out.mp4 it writes the trajectory and out_side_by_side.mp4. The trajectory is in
out_trajectory/ (one palette PNG per frame) and, overlaid on the video, in out_trajectory.mp4. To
use an edited trajectory, or your own, pass --trajectory FOLDER and another --out. Stage 1 is then
skipped.

If --segmentation, --motion or --object is missing, pretrained models supply it (needs the extra
`data`):

    python -m ttm_jax.pytorch.generate FOLDER --image photo.png \\
        --prompt "A brown dog runs on a beach." --llm LLM --detector GROUNDING_DINO --sam SAM2 \\
        --out out.mp4

Their results are printed, and drawn in out_found.png, before generation starts. You can instead
pass a file of `data_tools.describe` with --described FILE. Its embeddings are not used: the text
encoders of the folder embed the prompts.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ttm_jax.arguments import command_parser
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

# The files and folders of an exported folder that are read.
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
  """Parse the flags, generate the video and write the outputs.

  Raises:
    InputError: if a flag, an input file or the exported folder is invalid.
  """
  args = parser().parse_args()
  out = checked_out(args)
  models = {
    # On the command line a path is relative to the working directory, not to config.json.
    name: str(Path(model).resolve()) if Path(model).is_dir() else model
    for name, model in parse_texts(args.text).items()
  }
  if args.dtype not in DTYPES:
    raise InputError(f'--dtype {args.dtype}: choose {", ".join(DTYPES)}')
  # Import after the flags are checked: PyTorch takes seconds to import, and may be missing.
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
  """Return the name of a PyTorch device; for 'auto', 'cuda' if available, else 'cpu'.

  Raises:
    InputError: if PyTorch does not know the device, or this machine does not have it.
  """
  import torch

  if name == 'auto':
    return 'cuda' if torch.cuda.is_available() else 'cpu'
  try:
    torch.zeros(1, device=name)
  except (RuntimeError, AssertionError) as error:  # Unknown, or not in this PyTorch.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(f'--device {name} cannot be used ({reason}): take cpu or auto') from error
  return name


def video_of(folder: Path) -> dict[str, Any]:
  """Return frames, height, width and fps of the videos that an exported folder generates.

  Raises:
    InputError: if model_index.json is damaged or lacks these values.
  """
  from .loading import read_index

  try:
    video = read_index(folder)['video']
    return {name: video[name] for name in ('frames', 'height', 'width', 'fps')}
  except (KeyError, TypeError) as error:
    raise InputError(f'{folder}/model_index.json is damaged: copy the folder again') from error


def max_objects(folder: Path) -> int:
  """Return the largest number of objects that every stage of an exported folder supports.

  Raises:
    InputError: if the configuration of the text encoder is missing or damaged.
  """
  from .loading import read_texts

  return min(stage['max_objects'] for stage in read_texts(folder)['stages'].values())


def parser() -> argparse.ArgumentParser:
  """Return the command-line parser."""
  made = command_parser('ttm_jax.pytorch.generate', __doc__)
  made.add_argument('folder', help='exported folder, or repository id on the Hugging Face Hub')
  add_flags(made)
  made.add_argument(
    '--offload', action='store_true', help='keep only the active model on the GPU (accelerate)'
  )
  return made


def cli() -> None:
  """Run the command; show an InputError as one line and exit with code 2."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
