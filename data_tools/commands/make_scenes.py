"""What `python -m data_tools.make_scenes` does."""

import argparse
import dataclasses

from data_tools.arguments import parse_size
from ttm_jax.data.clips import write_clips
from ttm_jax.errors import InputError
from ttm_jax.scenes.dragged import dragged_scene
from ttm_jax.scenes.generator import SceneConfig, scene, scene_splits
from ttm_jax.scenes.lookalikes import LookalikeConfig, lookalike_scene


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.make_scenes`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  if args.lookalike and args.dragged:
    raise InputError('--lookalike and --dragged are two kinds of scenes: give one of them')
  common = {
    'size': parse_size(args.size),
    'frames': args.frames,
    'fps': args.fps,
    'max_objects': args.max_objects,
    'seed': args.seed,
  }
  config: SceneConfig | LookalikeConfig
  if args.lookalike:
    config = LookalikeConfig(**common, min_objects=max(args.min_objects, 2))
    splits = scene_splits(config, args.train, args.validation, lookalike_scene)
  else:
    config = SceneConfig(
      **common,
      min_objects=args.min_objects,
      motions=tuple(args.motions.split(',')),
      shapes=tuple(args.shapes.split(',')),
    )
    make = dragged_scene if args.dragged else scene
    splits = scene_splits(config, args.train, args.validation, make)
  made = dataclasses.asdict(config) | ({'dragged': True} if args.dragged else {})
  write_clips(args.out, splits, {'scenes': made}, args.workers)
  print(f'wrote {args.out}: ' + ', '.join(f'{len(s)} {name}' for name, s in splits.items()))
