"""What `python -m ttm_jax.generate` does."""

import argparse
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ttm_jax.data.context import Context, Encoding, read_encoding
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.inference import command as animation
from ttm_jax.inference import sizes
from ttm_jax.inference.cli_args import parse_texts
from ttm_jax.inference.embedded_texts import encoders_of
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage, fit
from ttm_jax.inference.pretrained_texts import with_embeddings
from ttm_jax.outputs import parts_of_run
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.training.orbax_errors import hush
from ttm_jax.training.runs import read_config


def run(args: argparse.Namespace) -> None:
  """Animate the image named by the flags of `ttm_jax.generate`.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  hush()
  keep_programs(args.compilation_cache)
  out = animation.checked_out(args)
  if args.trajectory is None and args.stage1 is None:
    raise InputError('give --stage1 RUN to generate the motion, or --trajectory FOLDER')
  runs = [args.stage2] if args.trajectory is not None else [args.stage1, args.stage2]
  encodings, size = encodings_of(runs), None
  if args.size is not None or args.frames is not None:
    encodings, size = encodings_at(runs, args)
  encoding = encodings[-1]
  shape = encoding.frames, encoding.height, encoding.width
  networks = {'--stage1': parts_of_run(args.stage1), '--stage2': parts_of_run(args.stage2)}
  animation.check_outputs(args, out, shape, networks)
  most = min(encoding.max_objects for encoding in encodings)
  described = animation.described_by(args, out, most)
  if args.described is None:
    weights, texts = ModelSource.from_flags(args), parse_texts(args.text)
    described = with_embeddings(described, encodings, weights, texts)
  request = Request(
    described.picture,
    described.segmentation,
    described.caption,
    described.motion,
    described.prompts,
  )
  ids = None if args.trajectory is None else animation.read_trajectory(args.trajectory)
  request, ids = fitted(request, ids, encoding)
  if ids is not None:
    animation.say_start(request.mask, ids[0])
  guidance = {'visual_scale': args.visual_scale, 'text_scale': args.text_scale}
  given = {name: value for name, value in guidance.items() if value is not None}

  def load(run, task):
    encoders = encoders_of(described, read_encoding(run), run)
    return Stage(run, task, encoders, sample=given, steps=args.steps, size=size)

  pipeline = Pipeline(
    None if ids is not None else load(args.stage1, STAGE1), load(args.stage2, STAGE2)
  )
  for stage in (pipeline.stage1, pipeline.stage2):
    if stage is not None:
      stage.check(request, ids)
  pipeline.compile([request])
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
      animation.keep_trajectory(out, ids)
    task = progress.add_task('video', total=pipeline.stage2.sampling_steps)
    (video,) = pipeline.videos([request], ids[None], args.seed, lambda: progress.advance(task))
  palette, fps = pipeline.encoding.palette, pipeline.encoding.fps
  animation.write(out, request.picture, ids, video, palette, fps)


def encodings_of(runs: Sequence[str]) -> list[Encoding]:
  """Return how the clips of each run were encoded.

  Raises:
    InputError: If one of `runs` is not a run.
  """
  for run in runs:
    read_config(run)  # First, since its error message names the run, not a dataset.
  encodings = [read_encoding(run) for run in runs]
  for run, encoding in zip(runs, encodings, strict=True):
    if encoding.trajectory == FLOW:
      raise InputError(
        f'run {run} was trained on optical flow: score it with ttm_jax.evaluate, since there are no'
        ' masks to keep or edit'
      )
  return encodings


def encodings_at(
  runs: Sequence[str], args: argparse.Namespace
) -> tuple[list[Encoding], sizes.Size]:
  """Return how the clips of each run are encoded at the size that --size and --frames ask for.

  Print a note if a run was not trained at it.

  Args:
    runs: The runs; the last one gives what the flags leave open.
    args: The flags.

  Returns:
    The encodings, and frames, height and width.

  Raises:
    InputError: If a flag has another form, or a run cannot sample at this size.
  """
  sides = None if args.size is None else sizes.parse_size(args.size)
  contexts = [Context.load(run) for run in runs]
  size = sizes.choose(contexts[-1], args.frames, sides)
  found = []
  for run, context in zip(runs, contexts, strict=True):
    found.append(sizes.context_at(run, read_config(run), context, size).encoding)
    if size not in [shape.size for shape in context.shapes]:
      print(f'run {run} was not trained at this size, but on {sizes.trained(context)}')
  return found, size


def fitted(
  request: Request, ids: np.ndarray | None, encoding: Encoding
) -> tuple[Request, np.ndarray | None]:
  """Return a request and a trajectory resized to the runs' size; print a note if that changes them.

  Args:
    request: Image, mask and prompts, of any size.
    ids: Trajectory uint8 [T, H, W] of any size, or None.
    encoding: Gives the height and width of the runs.

  Raises:
    InputError: If cropping leaves no object in the mask.
  """
  height, width = encoding.height, encoding.width
  animation.say_fit(request.mask, height, width)
  resized = request.fitted(height, width)
  if ids is not None:
    ids = np.stack([fit(frame, height, width, nearest=True) for frame in ids])
  return resized, ids
