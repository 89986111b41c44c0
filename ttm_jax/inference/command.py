"""Shared parts of the generate commands: flags, inputs that are given or detected, and outputs.

`ttm_jax.generate` and `ttm_jax.pytorch.generate` use this module. It depends on neither JAX nor
PyTorch, unless models have to find what is not given.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ttm_jax.errors import InputError, printable
from ttm_jax.inference.cli_args import (
  MODELS,
  check_flags,
  check_number,
  check_seed,
  check_steps,
  parse_objects,
  reads,
)
from ttm_jax.inference.cli_args import add_flags as add_asked_flags
from ttm_jax.inference.image_description import Described
from ttm_jax.inference.request import check_start
from ttm_jax.media.images import read_image
from ttm_jax.media.label_images import check_size
from ttm_jax.media.video_io import write_video
from ttm_jax.outputs import Reads, files_of
from ttm_jax.outputs import check as check_outputs_of
from ttm_jax.pytorch.annotation.describe import Models, describe
from ttm_jax.trajectory import (
  MAX_OBJECTS,
  check_folder,
  overlay,
  read_folder,
  read_mask,
  render,
  write_folder,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Add all flags except those that name the networks."""
  add_asked_flags(parser)
  add = parser.add_argument
  add('--described', help='file of data_tools.describe; other flags override its values')
  add('--trajectory', help='folder of palette PNGs that replaces stage 1')
  add('--out', required=True, help='output video, .mp4')
  add('--seed', type=int, default=0, help='seed of the noise, 0 to 2^63 - 1; default 0')
  add('--steps', type=int, help='sampling steps; default: as configured for the networks')
  add('--visual_scale', type=float, help='guidance scale of the image; default: as configured')
  add('--text_scale', type=float, help='guidance scale of the text; default: as configured')


def checked_out(args: argparse.Namespace) -> Path:
  """Check the flags that refer to no other file, and return the output video.

  Args:
    args: Flags of `add_flags`.

  Raises:
    InputError: If a number is out of range, an --object is malformed, or --out does not end in
      .mp4.
  """
  out = Path(args.out)
  if out.suffix.lower() != '.mp4':
    raise InputError(f'--out {out}: give a name that ends in .mp4')
  check_flags(args)
  parse_objects(args.object)
  check_seed(args.seed)
  check_steps(args.steps)
  check_number('--visual_scale', args.visual_scale)
  check_number('--text_scale', args.text_scale)
  return out


def check_outputs(
  args: argparse.Namespace, out: Path, size: tuple[int, int, int], networks: Reads
) -> None:
  """Check that the outputs can be written and replace no input; call it before any computation.

  Args:
    args: Flags of `add_flags`.
    out: The output video.
    size: Frames, height and width of the video.
    networks: Files of the networks, by flag.

  Raises:
    InputError: If an output cannot be written, or would replace an input.
  """
  folder = _trajectory(out)
  files = [out, _trajectory_video(out), _side_by_side(out)]
  if args.described is not None or any(getattr(args, model) for model in MODELS):
    files.append(_found(out))
  given = {'--described': args.described, '--trajectory': files_of(args.trajectory)}
  # Three RGB videos with a total width of five frames, at about 1/20 of their raw size.
  needed = 2**20 + 5 * 3 * size[0] * size[1] * size[2] // 20
  check_outputs_of('--out', files, [folder], {**reads(args), **given, **networks}, needed)
  check_folder(folder, size[0])


def _trajectory(out: Path) -> Path:
  return out.with_name(f'{out.stem}_trajectory')


def _trajectory_video(out: Path) -> Path:
  # `with_suffix` would truncate a stem that contains dots.
  return out.with_name(f'{out.stem}_trajectory.mp4')


def _side_by_side(out: Path) -> Path:
  return out.with_name(f'{out.stem}_side_by_side.mp4')


def _found(out: Path) -> Path:
  return out.with_name(f'{out.stem}_found.png')


def exists(out: Path) -> bool:
  """Return whether all outputs of a video exist; `write` writes these in this order."""
  return all(
    path.exists() for path in (out, _trajectory(out), _trajectory_video(out), _side_by_side(out))
  )


def described_by(args: argparse.Namespace, out: Path, max_objects: int = MAX_OBJECTS) -> Described:
  """Return the image, mask and prompts from a file, flags, and models for what is not given.

  If a file or models are used, print the result and write it as an image, out_found.png.

  Args:
    args: Flags of `add_flags`.
    out: The output video.
    max_objects: Maximum number of objects that the language model names.

  Raises:
    InputError: If an input is missing or invalid, or the models cannot be loaded.
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
  if mask is None and not named:
    raise InputError(
      'give --segmentation MASK.png; or --llm, --detector and --sam to have the objects found; or'
      ' --described FILE'
    )
  if mask is not None and not named:
    check_size(picture, mask)
    return Described(picture, mask, args.prompt, motion or args.prompt, {}, prompts)
  models = Models.from_flags(args)
  found = describe(
    picture,
    args.prompt,
    models,
    motion=motion,
    segmentation=mask,
    prompts=prompts,
    max_objects=max_objects,
  )
  show(found, out)
  return found


def read_trajectory(folder: str) -> np.ndarray:
  """Return the label maps of a folder, uint8 [T, H, W], and print notes on their interpretation.

  Raises:
    InputError: See `trajectory.read_folder`.
  """
  notes: list[str] = []
  ids = read_folder(folder, notes)
  say(notes)
  return ids


def say(notes: Sequence[str]) -> None:
  """Print notes on the interpretation of images and masks, one per line."""
  for note in notes:
    print(printable(note), flush=True)


def show(described: Described, out: Path) -> None:
  """Print the texts of an image description, and write an overlay of its objects as PNG.

  Args:
    described: The description.
    out: The output video; the PNG is written beside it, as out_found.png.

  Raises:
    InputError: If the PNG cannot be written.
  """
  path = _found(out)
  described.save_overlay(path)
  print(printable('\n'.join([*described.lines(), f'{path} shows the objects'])), flush=True)


def say_fit(mask: np.ndarray, height: int, width: int) -> None:
  """Print a note if an image with this mask [H, W] will be resized or cropped."""
  if mask.shape != (height, width):
    h, w = mask.shape
    print(f'resized and center-cropped from {w} x {h} to {width} x {height} pixels')


def say_start(mask: np.ndarray, first: np.ndarray) -> None:
  """Print a note if frame 0 of a given trajectory differs from the segmentation.

  Args:
    mask: Segmentation, uint8 [H, W].
    first: Frame 0 of the trajectory, uint8 [H, W].

  Raises:
    InputError: See `request.check_start`.
  """
  if said := check_start(mask, first):
    print(said, flush=True)


def keep_trajectory(out: Path, ids: np.ndarray) -> None:
  """Write a generated trajectory, uint8 [T, H, W], before the video is generated.

  The trajectory is thus kept if video generation fails. A write error is printed as a warning.
  """
  try:
    write_folder(_trajectory(out), ids)
  except InputError as error:
    print(f'warning: {printable(error)}', file=sys.stderr)


def write(
  out: Path, picture: np.ndarray, ids: np.ndarray, video: np.ndarray, palette: str, fps: float
) -> None:
  """Write the video, its trajectory, the overlay and the side-by-side video; print their names.

  Args:
    out: The output video; the other outputs are written beside it.
    picture: Image, uint8 [H, W, 3].
    ids: Trajectory, uint8 [T, H, W].
    video: uint8 [T, H, W, 3].
    palette: A key of trajectory.PALETTES.
    fps: Frames per second.

  Raises:
    InputError: If an output could not be written; the others are written.
  """
  folder = _trajectory(out)
  still = np.broadcast_to(picture, video.shape)
  steps: list[tuple[str, Callable[[], None]]] = [
    (f'{out}', lambda: write_video(out, video, fps)),
    (f'{folder}/', lambda: write_folder(folder, ids)),
    (
      f'{_trajectory_video(out)}',
      lambda: write_video(_trajectory_video(out), overlay(video, ids, palette), fps),
    ),
    (
      f'{_side_by_side(out)}',
      lambda: write_video(
        _side_by_side(out), np.concatenate([still, render(ids, palette), video], axis=2), fps
      ),
    ),
  ]
  failed = []
  for name, step in steps:
    try:
      step()
    except (OSError, InputError) as error:
      reason = error.strerror if isinstance(error, OSError) else error
      failed.append(f'cannot write {name} ({reason or error})')
    else:
      print(printable(name), flush=True)
  if failed:
    raise InputError('; '.join(failed) + ': free space or name another --out; the rest is written')
