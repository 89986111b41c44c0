"""Animates a picture: image + segmentation + sentences -> trajectory -> video.

    python -m ttm_jax.generate --image photo.png --segmentation mask.png \\
        --prompt "A brown dog runs to the left on a beach." --motion "The dog runs to the left." \\
        --object "1: a brown dog running to the left" --stage1 RUN --stage2 RUN --out out.mp4

Beside out.mp4 it writes the trajectory (out_trajectory/, one palette PNG a frame, and
out_trajectory.mp4, laid over the video) and out_side_by_side.mp4. Edit the PNGs, or make your own,
and give them back with --trajectory FOLDER: stage 1 is then skipped.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ttm_jax import trajectory
from ttm_jax.data.video_io import read_image, write_video
from ttm_jax.errors import InputError, front_door
from ttm_jax.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage, fit
from ttm_jax.training.checkpoint import hush


def main() -> None:
  args = parser().parse_args()
  hush()
  out = Path(args.out)
  if out.suffix.lower() != '.mp4':
    raise InputError(f'--out {out}: give a name that ends in .mp4')
  if args.trajectory is None and args.stage1 is None:
    raise InputError('give --stage1 RUN to generate the motion, or --trajectory FOLDER')
  request = Request(
    picture=read_image(args.image),
    mask=trajectory.read_mask(args.segmentation),
    caption=args.prompt,
    motion=args.motion or args.prompt,
    prompts=parse_objects(args.object),
  )
  ids = None if args.trajectory is None else trajectory.read_folder(args.trajectory)
  guidance = {'visual_scale': args.visual_scale, 'text_scale': args.text_scale}
  given = {name: value for name, value in guidance.items() if value is not None}

  def load(run, task):
    return Stage(run, task, sample=given, steps=args.steps)

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


def parse_objects(texts: list[str]) -> dict[int, str]:
  """What each object does, by its id in the mask."""
  prompts: dict[int, str] = {}
  for number, prompt in map(parse_object, texts):
    if number in prompts:
      raise InputError(f'--object gives object {number} two prompts; join them to one')
    prompts[number] = prompt
  return prompts


def parse_object(text: str) -> tuple[int, str]:
  """'1: a dog that runs' -> (1, 'a dog that runs')."""
  number, colon, prompt = text.partition(':')
  if not colon or not number.strip().isdigit() or not prompt.strip():
    raise InputError(f'--object "{text}": write the id in the mask, a colon and what it does')
  return int(number), prompt.strip()


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    'python -m ttm_jax.generate',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--image', required=True, help='the picture to animate')
  made.add_argument(
    '--segmentation', required=True, help='palette or grey PNG: 0 background, 1 to 8 objects'
  )
  made.add_argument('--prompt', required=True, help='what the video shows')
  made.add_argument('--motion', help='what moves and how; default: the prompt')
  made.add_argument(
    '--object', action='append', default=[], help='"ID: what this object does"; once an object'
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
