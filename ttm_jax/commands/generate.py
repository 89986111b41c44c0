"""What `python -m ttm_jax.generate` does."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ttm_jax.data.context import Context, Encoding, read_encoding
from ttm_jax.data.encode import batched
from ttm_jax.data.schema import FLOW
from ttm_jax.errors import InputError
from ttm_jax.inference import command as animation
from ttm_jax.inference import sizes
from ttm_jax.inference.cli_args import MODELS, parse_texts
from ttm_jax.inference.embedded_texts import encoders_of
from ttm_jax.inference.image_description import Described
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage, fit
from ttm_jax.inference.pretrained_texts import with_embeddings
from ttm_jax.inference.request_file import at, read_requests
from ttm_jax.inference.sampling_flags import sampling_of
from ttm_jax.inference.sampling_mesh import mesh_of
from ttm_jax.outputs import parts_of_run
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.training.orbax_errors import hush
from ttm_jax.training.runs import read_config


@dataclasses.dataclass
class Job:
  """A video to generate.

  Attributes:
    args: its flags.
    out: the video.
    described: image, masks and texts, of any size.
    request: the same at the size of the runs.
    ids: its trajectory, uint8 [T, H, W]; None until it is generated.
  """

  args: argparse.Namespace
  out: Path
  described: Described
  request: Request
  ids: np.ndarray | None


def run(args: argparse.Namespace) -> None:
  """Generate the videos that the flags of `ttm_jax.generate` ask for.

  Raises:
    InputError: If an input is invalid, or an output cannot be written.
  """
  hush()
  keep_programs(args.compilation_cache)
  asked = requests_of(args)
  if not asked:
    return
  outs = [checked_out(one) for one in asked]
  chained = any(one.trajectory is None for one in asked)
  if chained and args.stage1 is None:
    raise InputError('give --stage1 RUN to generate the motion, or --trajectory FOLDER')
  runs = [args.stage1, args.stage2] if chained else [args.stage2]
  encodings, size = encodings_of(runs), None
  if args.size is not None or args.frames is not None:
    encodings, size = encodings_at(runs, args)
  encoding = encodings[-1]
  shape = encoding.frames, encoding.height, encoding.width
  networks = {'--stage1': parts_of_run(args.stage1), '--stage2': parts_of_run(args.stage2)}
  for one, out in zip(asked, outs, strict=True):
    with at(one.where):
      animation.check_outputs(one, out, shape, networks)
  most = min(encoding.max_objects for encoding in encodings)
  jobs = [job_of(one, out, most, encoding) for one, out in zip(asked, outs, strict=True)]
  described = embedded(jobs, args, encodings)
  given, mesh = sampling_of(args), mesh_of(args)

  def load(run: str, task: str) -> Stage:
    encoders = encoders_of(described, read_encoding(run), run)
    return Stage(run, task, encoders, given, args.steps, size, args.solver, mesh)

  pipeline = Pipeline(load(args.stage1, STAGE1) if chained else None, load(args.stage2, STAGE2))
  for job in jobs:
    with at(job.args.where):
      for stage in (pipeline.stage1, pipeline.stage2):
        if stage is not None:
          stage.check(job.request, job.ids)
  generate(pipeline, jobs, min(args.batch, len(jobs)))


def requests_of(args: argparse.Namespace) -> list[argparse.Namespace]:
  """Return the flags of each video, with `where` it is asked for; those that exist are left out.

  Raises:
    InputError: If --requests cannot be read, or flags do not go with it.
  """
  if args.batch < 1:
    raise InputError(f'--batch {args.batch}: must be at least 1')
  if args.requests is None:
    return [argparse.Namespace(**vars(args), where='')]
  for name in MODELS:
    if getattr(args, name):
      raise InputError(
        f'--{name} finds what one image lacks, and --requests names many: describe each of them'
        ' with data_tools.describe, and name the files as "described"'
      )
  asked = read_requests(args.requests, args)
  left = [one for one in asked if not animation.exists(Path(one.out))]
  if len(left) < len(asked):
    print(
      f'{len(asked) - len(left)} of {len(asked)} videos exist and are kept: remove them to generate'
      ' them again'
    )
  return left


def checked_out(args: argparse.Namespace) -> Path:
  """Check the flags of a video that refer to no other file, and return the video."""
  with at(args.where):
    return animation.checked_out(args)


def job_of(args: argparse.Namespace, out: Path, max_objects: int, encoding: Encoding) -> Job:
  """Read the inputs of a video; print notes on how they are understood.

  Args:
    args: its flags.
    out: the video.
    max_objects: maximum number of objects that the language model names.
    encoding: gives the size of the runs.

  Raises:
    InputError: If an input is missing or invalid, or the models cannot be loaded.
  """
  with at(args.where):
    described = animation.described_by(args, out, max_objects)
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
  return Job(args, out, described, request, ids)


def embedded(
  jobs: Sequence[Job], args: argparse.Namespace, encodings: Sequence[Encoding]
) -> list[Described]:
  """Return the descriptions with the embeddings of their texts, if a file does not have them.

  Raises:
    InputError: If a text encoder cannot be loaded.
  """
  weights, texts = ModelSource.from_flags(args), parse_texts(args.text)
  bare = [job.described for job in jobs if job.args.described is None]
  read = [job.described for job in jobs if job.args.described is not None]
  return [*read, *with_embeddings(bare, encodings, weights, texts)]


def generate(pipeline: Pipeline, jobs: Sequence[Job], size: int) -> None:
  """Generate and write videos.

  Args:
    pipeline: the stages.
    jobs: the videos.
    size: videos to generate at once. The last ones are filled up to it, so that nothing is compiled
      for another size.

  Raises:
    InputError: If a video could not be written.
  """
  given = [job for job in jobs if job.ids is not None]
  batches = [*batched([job for job in jobs if job.ids is None], size), *batched(given, size)]
  chained = len(batches) - len(list(batched(given, size)))
  pipeline.compile([jobs[0].request] * size)
  with Progress(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    console=Console(stderr=True),
  ) as progress:
    if chained:
      assert pipeline.stage1 is not None
      motion = progress.add_task('motion', total=chained * pipeline.stage1.sampling_steps)
    video = progress.add_task('video', total=len(batches) * pipeline.stage2.sampling_steps)
    for some in batches:
      full = [*some, *[some[-1]] * (size - len(some))]
      requests, seeds = [job.request for job in full], [job.args.seed for job in full]
      if some[0].ids is None:
        found = pipeline.trajectories(requests, seeds, lambda: progress.advance(motion))
        for job, ids in zip(some, found, strict=False):
          job.ids = ids
          animation.keep_trajectory(job.out, ids)
      trajectories = np.stack([job.ids for job in full])
      videos = pipeline.videos(requests, trajectories, seeds, lambda: progress.advance(video))
      for job, pixels in zip(some, videos, strict=False):
        with at(job.args.where):
          encoding = pipeline.encoding
          assert job.ids is not None
          animation.write(
            job.out, job.request.picture, job.ids, pixels, encoding.palette, encoding.fps
          )


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
