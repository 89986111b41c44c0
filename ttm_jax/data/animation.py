"""A picture animated on the command line: flags, what is given or found, and what is written.

`ttm_jax.generate` and `ttm_jax.pytorch.generate` share it. Neither JAX nor PyTorch, but for the
models of `data_tools.describe`, which are brought in where something is to be found.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ttm_jax.data.asked import MODELS, parse_objects
from ttm_jax.data.asked import add_flags as add_asked_flags
from ttm_jax.data.described import Described
from ttm_jax.data.video_io import write_video
from ttm_jax.errors import InputError, printable
from ttm_jax.images import read_image
from ttm_jax.label_images import check_size
from ttm_jax.trajectory import (
  MAX_OBJECTS,
  overlay,
  read_folder,
  read_mask,
  render,
  write_folder,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """All flags but those that say where the networks are."""
  add_asked_flags(parser)
  add = parser.add_argument
  add('--described', help='file of data_tools.describe; what is given besides, counts instead')
  add('--trajectory', help='folder of palette PNGs to use in place of stage 1')
  add('--out', required=True, help='the video to write, .mp4')
  add('--seed', type=int, default=0, help='of the noise; default 0')
  add('--steps', type=int, help='sampling steps; default: as the networks were configured')
  add('--visual_scale', type=float, help='guidance by the picture; default: as configured')
  add('--text_scale', type=float, help='guidance by the text; default: as configured')


def checked_out(name: str) -> Path:
  """The video to write; InputError where it is no .mp4."""
  out = Path(name)
  if out.suffix.lower() != '.mp4':
    raise InputError(f'--out {out}: give a name that ends in .mp4')
  return out


def described_by(
  args: argparse.Namespace,
  out: Path,
  encodings: Callable[[], Sequence[Any]] = tuple,
  max_objects: int = MAX_OBJECTS,
) -> Described:
  """What is given of the picture, in a file or by flags; what is not, models find.

  Says what was found, and shows it beside `out`, as out_found.png.

  Args:
    args: of `add_flags`.
    encodings: called for the `data.context.Encoding`s whose pretrained text encoders are to embed
      the texts; by default none.
    max_objects: the most that the language model is to name.

  Raises:
    InputError: something is neither given nor can it be found.
  """
  prompts, named = parse_objects(args.object), any(getattr(args, m) for m in MODELS)
  notes: list[str] = []
  if args.described is not None:
    if named:
      raise InputError('--described and models exclude each other; give one of them')
    found = Described.load(args.described).but(
      picture=read_image(args.image, notes) if args.image else None,
      segmentation=read_mask(args.segmentation, notes) if args.segmentation else None,
      caption=args.prompt,
      motion=args.motion,
      prompts=prompts or None,
    )
    say(notes)
    show(found, out)
    return found
  if not args.image:
    raise InputError('give --image PICTURE, or --described FILE')
  if args.prompt is None:
    raise InputError('give --prompt, what the video is to show')
  picture, motion = read_image(args.image, notes), args.motion or ''
  mask = read_mask(args.segmentation, notes) if args.segmentation else None
  say(notes)
  read = encodings()
  if mask is None and not named:
    raise InputError(
      'give --segmentation MASK.png; or --llm, --detector and --sam to have the objects found; or'
      ' --described FILE'
    )
  if mask is not None and not named and not any(map(_embedded, read)):
    check_size(picture, mask)
    return Described(picture, mask, args.prompt, motion or args.prompt, {}, prompts)
  try:
    from data_tools.describe import Models, describe
  except ImportError as error:
    raise InputError(
      f"the models need the whole package with its extra 'data' ({error}): install"
      " 'ttm_jax[data]', or describe the picture elsewhere (python -m data_tools.describe) and give"
      ' the file with --described'
    ) from error

  found = describe(
    picture,
    args.prompt,
    Models.from_flags(args),
    motion=motion,
    segmentation=mask,
    prompts=prompts,
    encodings=read,
    max_objects=max_objects,
  )
  if named:
    show(found, out)
  return found


def _embedded(encoding: Any) -> bool:
  """Whether texts are embedded by more than the networks themselves, which know `words`."""
  return any(name != 'words' for name in encoding.encoders)


def read_trajectory(folder: str) -> np.ndarray:
  """Return the label maps of a folder, uint8 [T, H, W], and print how they were understood.

  Raises:
    InputError: see `trajectory.read_folder`.
  """
  notes: list[str] = []
  ids = read_folder(folder, notes)
  say(notes)
  return ids


def say(notes: Sequence[str]) -> None:
  """Print how pictures and masks were understood, a line each."""
  for note in notes:
    print(printable(note), flush=True)


def show(described: Described, out: Path) -> None:
  """Says what is to be animated, and paints the objects."""
  path = out.with_name(f'{out.stem}_found.png')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(described.overlay()).save(path)
  except OSError as error:
    raise InputError(f'cannot write {path} ({error.strerror}); name another --out') from error
  print('\n'.join([*described.lines(), f'{path} shows the objects']), flush=True)


def say_fit(mask: np.ndarray, height: int, width: int) -> None:
  """Says so where a picture of the size of its mask [H, W] will be cropped or resized."""
  if mask.shape != (height, width):
    h, w = mask.shape
    print(f'resized and centre-cropped from {w} x {h} to {width} x {height} pixels')


def write(
  out: Path, picture: np.ndarray, ids: np.ndarray, video: np.ndarray, palette: str, fps: float
) -> None:
  """The video, its trajectory and both beside the picture.

  Args:
    picture: uint8 [H, W, 3].
    ids: uint8 [T, H, W].
    video: uint8 [T, H, W, 3].

  Raises:
    InputError: if they cannot be written there.
  """
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
