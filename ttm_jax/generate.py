"""Animates a picture: image + segmentation + sentences -> trajectory -> video.

    python -m ttm_jax.generate --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --stage1 RUN --stage2 RUN --out out.mp4

Beside out.mp4 it writes the trajectory (out_trajectory/, one palette PNG a frame, and
out_trajectory.mp4, laid over the video) and out_side_by_side.mp4. Edit the PNGs, or make your own,
and give them back with --trajectory FOLDER: stage 1 is then skipped.

Where --segmentation, --motion or --object is not given, models find it (these need PyTorch):

    python -m ttm_jax.generate --image photo.png --prompt "A brown dog runs on a beach." \\
        --llm LLM --detector GROUNDING_DINO --sam SAM2 --stage1 RUN --stage2 RUN --out out.mp4

What they found is printed, and shown in out_found.png, before anything is generated. On a host
without PyTorch: `python -m data_tools.describe` elsewhere, and its file here with --described.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ttm_jax import trajectory
from ttm_jax.data import asked
from ttm_jax.data.context import read_encoding
from ttm_jax.data.described import Described
from ttm_jax.data.encode import encoders_of
from ttm_jax.data.video_io import read_image, write_video
from ttm_jax.errors import InputError, front_door
from ttm_jax.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage, fit
from ttm_jax.report.pictures import png, write_atomically
from ttm_jax.text.encoders import WORDS
from ttm_jax.training.checkpoint import hush
from ttm_jax.training.runs import read_config


def main() -> None:
  args = parser().parse_args()
  hush()
  out = Path(args.out)
  if out.suffix.lower() != '.mp4':
    raise InputError(f'--out {out}: give a name that ends in .mp4')
  if args.trajectory is None and args.stage1 is None:
    raise InputError('give --stage1 RUN to generate the motion, or --trajectory FOLDER')
  runs = [args.stage2] if args.trajectory is not None else [args.stage1, args.stage2]
  described = described_by(args, runs, out)
  request = Request(
    described.picture,
    described.segmentation,
    described.caption,
    described.motion,
    described.prompts,
  )
  ids = None if args.trajectory is None else trajectory.read_folder(args.trajectory)
  guidance = {'visual_scale': args.visual_scale, 'text_scale': args.text_scale}
  given = {name: value for name, value in guidance.items() if value is not None}

  def load(run, task):
    encoders = encoders_of(described, read_encoding(run), run)
    return Stage(run, task, encoders, sample=given, steps=args.steps)

  pipeline = Pipeline(
    None if ids is not None else load(args.stage1, STAGE1), load(args.stage2, STAGE2)
  )
  request, ids = fitted(request, ids, pipeline)
  for stage in (pipeline.stage1, pipeline.stage2):
    if stage is not None:
      stage.check(request, ids)
  console = Console(stderr=True)
  with Progress(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    console=console,
  ) as progress:
    if ids is None:
      assert pipeline.stage1 is not None
      task = progress.add_task('motion', total=pipeline.stage1.sampling_steps)
      (ids,) = pipeline.trajectories([request], args.seed, lambda: progress.advance(task))
    task = progress.add_task('video', total=pipeline.stage2.sampling_steps)
    (video,) = pipeline.videos([request], ids[None], args.seed, lambda: progress.advance(task))
  write(out, request, ids, video, pipeline.encoding.palette, pipeline.encoding.fps)


def described_by(args: argparse.Namespace, runs: Sequence[str], out: Path) -> Described:
  """What is given of the picture, in a file or by flags; what is not, models find.

  Says what was found, and shows it beside `out`.

  Raises:
    InputError: something is neither given nor can it be found.
  """
  prompts, named = asked.parse_objects(args.object), any(getattr(args, m) for m in asked.MODELS)
  if args.described is not None:
    if named:
      raise InputError('--described and models exclude each other; give one of them')
    found = Described.load(args.described).but(
      picture=read_image(args.image) if args.image else None,
      segmentation=trajectory.read_mask(args.segmentation) if args.segmentation else None,
      caption=args.prompt,
      motion=args.motion,
      prompts=prompts or None,
    )
    show(found, out)
    return found
  if not args.image:
    raise InputError('give --image PICTURE, or --described FILE')
  if args.prompt is None:
    raise InputError('give --prompt, what the video is to show')
  picture, motion = read_image(args.image), args.motion or ''
  mask = trajectory.read_mask(args.segmentation) if args.segmentation else None
  for run in runs:
    read_config(run)  # Whose error is that of a run, not of a dataset.
  encodings = [read_encoding(run) for run in runs]
  embedded = any(name != WORDS for encoding in encodings for name in encoding.encoders)
  if mask is None and not named:
    raise InputError(
      'give --segmentation MASK.png; or --llm, --detector and --sam to have the objects found; or'
      ' --described FILE'
    )
  if mask is not None and not embedded and not named:
    return Described(picture, mask, args.prompt, motion or args.prompt, {}, prompts)
  # PyTorch, which most hosts that train do not have.
  from data_tools.describe import Models, describe

  found = describe(
    picture,
    args.prompt,
    Models.from_flags(args),
    motion=motion,
    segmentation=mask,
    prompts=prompts,
    encodings=encodings,
  )
  if named:
    show(found, out)
  return found


def show(described: Described, out: Path) -> None:
  """Says what is to be animated, and paints the objects."""
  path = out.with_name(f'{out.stem}_found.png')
  try:
    write_atomically(path, png(described.overlay()))
  except OSError as error:
    raise InputError(f'cannot write {path} ({error.strerror}); name another --out') from error
  print('\n'.join([*described.lines(), f'{path} shows the objects']), flush=True)


def fitted(
  request: Request, ids: np.ndarray | None, pipeline: Pipeline
) -> tuple[Request, np.ndarray | None]:
  """Picture, mask and trajectory at the size of the runs; says so where that crops or resizes."""
  height, width = pipeline.encoding.height, pipeline.encoding.width
  if request.mask.shape != (height, width):
    h, w = request.mask.shape
    print(f'resized and centre-cropped from {w} x {h} to {width} x {height} pixels')
  resized = request.fitted(height, width)
  if ids is not None:
    ids = np.stack([fit(frame, height, width, nearest=True) for frame in ids])
  return resized, ids


def write(
  out: Path, request: Request, ids: np.ndarray, video: np.ndarray, palette: str, fps: float
) -> None:
  """The video, its trajectory and both beside the picture.

  Raises:
    InputError: if they cannot be written there.
  """
  laid_over = trajectory.overlay(video, ids, palette)
  rendered = trajectory.render(ids, palette)
  still = np.broadcast_to(request.picture, video.shape)
  folder = out.with_name(f'{out.stem}_trajectory')
  beside = out.with_name(f'{out.stem}_side_by_side.mp4')
  try:
    trajectory.write_folder(folder, ids)
    write_video(folder.with_suffix('.mp4'), laid_over, fps)
    write_video(beside, np.concatenate([still, rendered, video], axis=2), fps)
    write_video(out, video, fps)
  except OSError as error:
    raise InputError(f'cannot write {out} and what goes with it ({error.strerror})') from error
  print(f'{out}\n{folder}/\n{folder}.mp4\n{beside}')


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    'python -m ttm_jax.generate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  asked.add_flags(made)
  made.add_argument(
    '--described', help='file of data_tools.describe; what is given besides, counts instead'
  )
  made.add_argument('--stage1', help='run of the image-to-motion stage')
  made.add_argument('--stage2', required=True, help='run of the motion-to-video stage')
  made.add_argument('--trajectory', help='folder of palette PNGs to use in place of stage 1')
  made.add_argument('--out', required=True, help='the video to write, .mp4')
  made.add_argument('--seed', type=int, default=0, help='of the noise; default 0')
  made.add_argument('--steps', type=int, help='sampling steps; default: as configured')
  made.add_argument('--visual_scale', type=float, help='guidance by the picture; default: config')
  made.add_argument('--text_scale', type=float, help='guidance by the text; default: config')
  return made


if __name__ == '__main__':
  with front_door():
    main()
