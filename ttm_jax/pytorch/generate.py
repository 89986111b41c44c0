"""Animates a picture by an exported folder, as `ttm_jax.generate` does by two runs; without JAX.

    python -m ttm_jax.pytorch.generate FOLDER --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --out out.mp4

Beside out.mp4 it writes the trajectory (out_trajectory/, one palette PNG a frame, and
out_trajectory.mp4, laid over the video) and out_side_by_side.mp4. Edit the PNGs, or make your own,
and give them back with --trajectory FOLDER: stage 1 is then skipped. Without --segmentation,
--detector and --sam find the objects; or a file of `data_tools.describe` brings picture, mask and
sentences, with --described FILE.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .asked import parse_objects
from .described import Described, check_size
from .errors import InputError, front_door
from .pipeline import TTMPipeline
from .request import fit
from .segmentation import Segmenter
from .trajectory import overlay, read_folder, read_mask, render, write_folder
from .video_io import read_image, write_video

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


def main() -> None:
  args = parser().parse_args()
  out = Path(args.out)
  if out.suffix.lower() != '.mp4':
    raise InputError(f'--out {out}: give a name that ends in .mp4')
  device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
  dtype = args.dtype or ('float32' if device == 'cpu' else 'bfloat16')
  picture, mask, prompt, motion, objects = given(args)
  ids = None if args.trajectory is None else read_folder(args.trajectory)
  left_out: dict[str, Any] = {} if ids is None else {'stage1': None, 'motion_scheduler': None}
  pipe = TTMPipeline.from_pretrained(args.folder, DTYPES[dtype], **left_out)
  if mask is None:
    segmenter = Segmenter(args.detector, args.sam, args.threshold, device=device)
    mask, found = segmenter(picture, motion or prompt)
    objects = found | objects
    print(''.join(f'found object {i}: {text}\n' for i, text in found.items()), end='')
  if args.offload:
    pipe.enable_model_cpu_offload(device=device)
  else:
    pipe.to(device)
  video = pipe.config.video
  height, width = video['height'], video['width']
  if mask.shape != (height, width):
    h, w = mask.shape
    print(f'resized and centre-cropped from {w} x {h} to {width} x {height} pixels')
  common = {
    'segmentation': mask,
    'motion_prompt': motion,
    'num_inference_steps': args.steps,
    'visual_scale': args.visual_scale,
    'text_scale': args.text_scale,
  }

  def generator() -> torch.Generator:
    return torch.Generator('cpu').manual_seed(args.seed)

  if ids is None:
    (ids,) = pipe.generate_trajectory(picture, prompt, generator=generator(), **common)
  output = pipe(
    picture,
    prompt,
    object_prompts=objects,
    trajectory=ids,
    generator=generator(),
    **common,
  )
  frames = np.stack([np.asarray(frame) for frame in output.frames[0]])
  still = fit(picture, height, width)
  write(out, still, output.trajectory[0], frames, pipe.config.stages['stage2'], video['fps'])


def given(
  args: argparse.Namespace,
) -> tuple[np.ndarray, np.ndarray | None, str, str | None, dict[int, str]]:
  """Picture, mask, prompt, motion prompt and object prompts, by flags or from a file.

  The mask is None where it is to be found.

  Raises:
    InputError: something is missing, or does not fit together.
  """
  objects = parse_objects(args.object)
  picture = read_image(args.image) if args.image else None
  mask = read_mask(args.segmentation) if args.segmentation else None
  if args.described is not None:
    if args.detector or args.sam:
      raise InputError('--described and models exclude each other; give one of them')
    found = Described.load(args.described).but(
      picture=picture,
      segmentation=mask,
      caption=args.prompt,
      motion=args.motion,
      prompts=objects or None,
    )
    print('\n'.join(found.lines()), flush=True)
    return found.picture, found.segmentation, found.caption, found.motion, dict(found.prompts)
  if picture is None:
    raise InputError('give --image PICTURE, or --described FILE')
  if args.prompt is None:
    raise InputError('give --prompt, what the video is to show')
  if mask is not None:
    check_size(picture, mask)
  elif not (args.detector and args.sam):
    raise InputError(
      'give --segmentation MASK.png; or --detector and --sam to have objects found; or --described'
      ' FILE'
    )
  return picture, mask, args.prompt, args.motion, objects


def write(
  out: Path, picture: np.ndarray, ids: np.ndarray, video: np.ndarray, stage: dict, fps: float
) -> None:
  """The video, its trajectory and both beside the picture.

  Raises:
    InputError: if they cannot be written there.
  """
  palette = stage['palette']
  folder = out.with_name(f'{out.stem}_trajectory')
  beside = out.with_name(f'{out.stem}_side_by_side.mp4')
  still = np.broadcast_to(picture, video.shape)
  try:
    write_folder(folder, ids)
    write_video(folder.with_suffix('.mp4'), overlay(video, ids, palette), fps)
    write_video(beside, np.concatenate([still, render(ids, palette), video], axis=2), fps)
    write_video(out, video, fps)
  except OSError as error:
    raise InputError(f'cannot write {out} and what goes with it ({error.strerror})') from error
  print(f'{out}\n{folder}/\n{folder}.mp4\n{beside}')


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    'python -m ttm_jax.pytorch.generate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = made.add_argument
  add('folder', help='exported folder, or id on the Hugging Face hub')
  add('--image', help='the picture to animate')
  add('--segmentation', help='palette or grey PNG: 0 background, 1 to 8 objects')
  add('--prompt', help='what the video shows')
  add('--motion', help='what moves and how; default: the prompt')
  add('--object', action='append', default=[], help='"ID: what this object does"; once an object')
  add('--detector', help='Grounding DINO, hub id or folder: where the named objects are')
  add('--sam', help='SAM 2, hub id or folder: their masks')
  add('--threshold', type=float, default=0.25, help='least score of a box; default 0.25')
  add(
    '--described',
    help='file of data_tools.describe: picture, mask and sentences; its embeddings are not used,'
    ' the folder embeds the sentences itself; what is given besides, counts instead',
  )
  add('--trajectory', help='folder of palette PNGs to use in place of stage 1')
  add('--out', required=True, help='the video to write, .mp4')
  add('--seed', type=int, default=0, help='of the noise; default 0')
  add('--steps', type=int, help='sampling steps; default: as exported')
  add('--visual_scale', type=float, help='guidance by the picture; default: as exported')
  add('--text_scale', type=float, help='guidance by the text; default: as exported')
  add('--device', help='default a GPU where there is one')
  add('--dtype', choices=sorted(DTYPES), help='default bfloat16, float32 on a CPU')
  add('--offload', action='store_true', help='keep only the part in use on the GPU (accelerate)')
  return made


if __name__ == '__main__':
  with front_door():
    main()
