"""Make the animations of README and documentation from a pair of trained runs.

    python -m docs.generate.pictures --stage1 runs/demo/stage1 --stage2 runs/demo/stage2 --out docs

writes samples.gif (four validation scenes), sentences.gif (one image, three motion prompts) and
edit.gif (one image, one object dragged to another place). The scenes are procedural and of the size
of the runs; training never draws their numbers. The same runs give the same files.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from docs.generate.panels import Panel, Row, page
from ttm_jax import outputs, trajectory_edits
from ttm_jax.arguments import command_parser
from ttm_jax.atomic import write_bytes
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError, front_door
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Request, Stage
from ttm_jax.media import animations
from ttm_jax.metrics.evaluation import request_of
from ttm_jax.parallel.compilation_cache import keep_programs
from ttm_jax.scenes import captions
from ttm_jax.scenes.generator import VALIDATION_START, SceneConfig, layout, scene

NAMES = ('samples.gif', 'sentences.gif', 'edit.gif')
MOTIONS = ('left', 'right', 'up', 'down', 'grow', 'shrink', 'stay')  # Those of the demo.
SCENES = 4
SEED = 0
LEAST_AREA = 0.045  # Of an object of `sentences` and `edit`, as a share of the image.
# What the two objects of one image do, in three sentences.
SENTENCES = (('left', 'stay'), ('right', 'left'), ('grow', 'right'))
BACKGROUND = 24, 26, 30  # Of trajectories.
SLOWER = 0.8  # Of the frame rate, so that eyes can follow several panels.
HELD = 4  # Frames that the last one stands still.


def main() -> None:
  """Make the animations, as the command line says."""
  args = parser().parse_args()
  out = Path(args.out)
  reads: outputs.Reads = {
    '--stage1': outputs.parts_of_run(args.stage1),
    '--stage2': outputs.parts_of_run(args.stage2),
  }
  outputs.check('--out', [out / name for name in NAMES], reads=reads, needed=2**22)
  keep_programs('')
  pipeline = Pipeline(Stage(args.stage1, STAGE1), Stage(args.stage2, STAGE2))
  encoding = pipeline.encoding
  if encoding.trajectory != 'masks':
    raise InputError(f'run {args.stage2} has no masks but {encoding.trajectory}: name another one')
  config = SceneConfig(
    size=(encoding.height, encoding.width),
    frames=encoding.frames,
    fps=encoding.fps,
    min_objects=2,
    max_objects=min(3, encoding.max_objects),
    motions=MOTIONS,
  )
  out.mkdir(parents=True, exist_ok=True)
  for name, make in zip(NAMES, (samples, sentences, edit), strict=True):
    frames = make(pipeline, config)
    shown = np.concatenate([frames, np.repeat(frames[-1:], HELD, 0)])
    write_bytes(out / name, animations.gif(shown, encoding.fps * SLOWER))
    print(f'{out / name}: {(out / name).stat().st_size / 1e3:.0f} kB')


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('docs.generate.pictures', __doc__)
  made.add_argument('--stage1', required=True, help='run of stage 1 on scenes')
  made.add_argument('--stage2', required=True, help='run of stage 2 on scenes')
  made.add_argument('--out', required=True, help='folder of the animations')
  return made


def samples(pipeline: Pipeline, config: SceneConfig) -> np.ndarray:
  """Draw four validation scenes: image, trajectory, video, ground truth.

  Args:
    pipeline: both stages.
    config: the scenes.

  Returns:
    Frames, uint8 [T, H, W, 3].
  """
  clips = [scene(config, VALIDATION_START + i) for i in range(SCENES)]
  requests = [request_of(clip) for clip in clips]
  ids = proposed(pipeline, requests, range(SEED, SEED + SCENES))
  videos = filmed(pipeline, requests, ids, range(SEED, SEED + SCENES))
  rows = [
    Row(
      clip.motion,
      [
        Panel('image', clip.video[:1]),
        Panel('trajectory', colored(ids[i], clip)),
        Panel('video', videos[i]),
        Panel('ground truth', clip.video),
      ],
    )
    for i, clip in enumerate(clips)
  ]
  head = 'Image and prompts in; stage 1 makes the trajectory, stage 2 the video'
  return page(head, rows, made_by(pipeline, 'validation scenes'), columns=1)


def sentences(pipeline: Pipeline, config: SceneConfig) -> np.ndarray:
  """Draw one image with three motion prompts, and what both stages make of each.

  Args, returns: see `samples`.
  """
  clip, index = _of_two(config)
  told = [_retold(config, index, clip, motions) for motions in SENTENCES]
  # One noise for all, so that the sentence alone makes the difference.
  seeds = [SEED] * len(told)
  ids = proposed(pipeline, told, seeds)
  videos = filmed(pipeline, told, ids, seeds)
  rows = [
    Row(
      request.motion,
      [
        Panel('the same image', clip.video[:1]),
        Panel('trajectory', colored(ids[i], clip)),
        Panel('video', videos[i]),
      ],
    )
    for i, request in enumerate(told)
  ]
  head = 'One image, three sentences'
  return page(head, rows, made_by(pipeline, 'a validation scene'), columns=1)


def edit(pipeline: Pipeline, config: SceneConfig) -> np.ndarray:
  """Draw a proposed trajectory, the same with one object dragged, and the video of each.

  Args, returns: see `samples`.
  """
  clip, index = _of_two(config)
  request = _retold(config, index, clip, ('stay', 'stay'))
  (ids,) = proposed(pipeline, [request], [SEED])
  last, way = len(ids) - 1, _free_way(ids)
  dragged = trajectory_edits.translate(ids, 1, {0: (0, 0), last: way}, smooth=True)
  videos = filmed(pipeline, [request] * 2, [ids, dragged], [SEED] * 2)
  arrow = _path(dragged == 1)
  rows = [
    Row(
      f'Proposed: "{request.motion}"',
      [
        Panel('image', clip.video[:1]),
        Panel('trajectory of stage 1', colored(ids, clip)),
        Panel('video', videos[0]),
      ],
    ),
    Row(
      f'Edited: the {clip.names[0]} is dragged, the prompts are the same',
      [
        Panel('image', clip.video[:1]),
        Panel('edited trajectory', colored(dragged, clip), arrow),
        Panel('new video', videos[1]),
      ],
    ),
  ]
  head = 'One image, one edit'
  return page(head, rows, made_by(pipeline, 'a validation scene'), columns=1)


def proposed(
  pipeline: Pipeline, requests: Sequence[Request], seeds: Sequence[int]
) -> Sequence[np.ndarray]:
  """Return the trajectories of at most four requests, uint8 [T, H, W] each.

  Batches are filled up to four, so that each stage is compiled once.
  """
  made = pipeline.trajectories(_filled(requests), _filled(seeds))
  return list(made[: len(requests)])


def filmed(
  pipeline: Pipeline,
  requests: Sequence[Request],
  ids: Sequence[np.ndarray],
  seeds: Sequence[int],
) -> Sequence[np.ndarray]:
  """Return the videos of at most four requests, uint8 [T, H, W, 3] each; see `proposed`."""
  made = pipeline.videos(_filled(requests), np.stack(_filled(ids)), _filled(seeds))
  return list(made[: len(requests)])


def _filled(items: Sequence[Any]) -> list[Any]:
  return [*items, *[items[-1]] * (SCENES - len(items))]


def colored(ids: np.ndarray, clip: Clip) -> np.ndarray:
  """Return a trajectory in the colors that its objects have in the image.

  Args:
    ids: uint8 [T, H, W].
    clip: has the image and its masks.

  Returns:
    uint8 [T, H, W, 3].
  """
  colors = np.zeros((int(clip.ids.max()) + 1, 3), np.uint8)
  colors[0] = BACKGROUND
  for label in range(1, len(colors)):
    colors[label] = np.median(clip.video[0][clip.ids[0] == label], axis=0)
  return colors[ids]


def made_by(pipeline: Pipeline, of: str) -> str:
  """Return what made a picture: sizes of the networks, steps, seed.

  Args:
    pipeline: both stages.
    of: what kind of scenes it shows.
  """
  stages = [pipeline.stage1, pipeline.stage2]
  sizes = [
    sum(int(np.prod(x.shape)) for x in jax.tree.leaves(stage.sampler.params)) / 1e6
    for stage in stages
    if stage is not None
  ]
  steps = [stage.sampling_steps for stage in stages if stage is not None]
  return (
    f'{of}, {" and ".join(f"{size:.1f}" for size in sizes)} million parameters,'
    f' {" and ".join(map(str, steps))} sampling steps, seed {SEED};'
    ' made by docs/generate/pictures.py'
  )


def _of_two(config: SceneConfig) -> tuple[Clip, int]:
  """Return the first validation scene of two objects that are apart, with its index."""
  two = dataclasses.replace(config, max_objects=2)
  index = VALIDATION_START + SCENES
  while not _roomy(scene(two, index).ids[0]):
    index += 1
  return scene(two, index), index


def _roomy(mask: np.ndarray) -> bool:
  """Return whether the two objects of a mask [H, W] are large, apart, and free to move.

  One is above the other, and object 1 in the middle between left and right.
  """
  (_, x), _ = places = [np.argwhere(mask == label).mean(0) / mask.shape for label in (1, 2)]
  large = all((mask == label).mean() > LEAST_AREA for label in (1, 2))
  apart = abs(float(places[0][0] - places[1][0])) > 0.4  # They may pass each other.
  return bool(large and apart and abs(x - 0.5) < 0.12)


def _retold(config: SceneConfig, index: int, clip: Clip, motions: Sequence[str]) -> Request:
  """Return the request of a scene whose objects shall move in another way."""
  plan = layout(dataclasses.replace(config, max_objects=2), index)
  things = [
    dataclasses.replace(thing, motion=motion, phrase=captions.PHRASES[motion][0], leader=None)
    for thing, motion in zip(plan.objects, motions, strict=True)
  ]
  said = captions.caption(things, plan.background_color, plan.background)
  prompts = {i + 1: captions.prompt_of(things, i) for i in range(len(things))}
  return Request(clip.video[0], clip.ids[0], said, captions.motion_prompt(things), prompts)


def _free_way(ids: np.ndarray) -> tuple[int, int]:
  """Return the offset (x, y) of a drag of object 1 to the side that has more room.

  The last frame that shows the object decides; frame 0 does, since it is the mask of the request.
  """
  shown = [frame for frame in ids if (frame == 1).any()]
  columns = np.flatnonzero((shown[-1] == 1).any(0))
  left, right = int(columns[0]), ids.shape[2] - 1 - int(columns[-1])
  return (round(0.9 * right), 0) if right > left else (-round(0.9 * left), 0)


def _path(mask: np.ndarray) -> list[tuple[float, float]]:
  """Return the centers (x, y) of an object over time, in pixels; mask is bool [T, H, W]."""
  places = [np.argwhere(frame).mean(0) for frame in mask if frame.any()]
  return [(float(x) + 0.5, float(y) + 0.5) for y, x in places]


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
