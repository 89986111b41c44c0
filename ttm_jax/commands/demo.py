"""What `python -m ttm_jax.demo` does: from procedural scenes to a scored pair of stages.

`ttm_jax.showcase` does the same by other recipes.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import NamedTuple

from ttm_jax import outputs
from ttm_jax.atomic import write_text
from ttm_jax.commands import run_command
from ttm_jax.preset_names import DEFAULT
from ttm_jax.presets import PRESETS

QUICK_STEPS = 20  # Training steps of each stage with --quick.
_QUICK_TRAIN, _QUICK_VALIDATION, _QUICK_PARTS = 64, 8, 2
_KINDS = 'clips', 'latents'
_TRAINING = 'Train stage 1, image to motion', 'Train stage 2, motion to video'


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Scenes, codec and configurations of a pair of stages.

  Attributes:
    preset: the backbone.
    configs: configurations of stage 1 and stage 2.
    parts: number of datasets that the training scenes are divided into. Each is made and encoded by
      steps of its own, so that little is lost when they are interrupted.
    train: training scenes of all parts.
    validation: validation scenes; they are in the first part.
    scenes: further flags of `data_tools.make_scenes`.
    encode: flags of `data_tools.encode`, without the codec.
    codec: the codec, which is fitted to the first part.
    workers: processes that render scenes.
    quick: further flags of training with --quick.
  """

  preset: str
  configs: tuple[str, str]
  parts: int
  train: int
  validation: int
  scenes: tuple[str, ...]
  encode: tuple[str, ...]
  codec: str
  workers: int = 2
  quick: tuple[str, ...] = ()


class Step(NamedTuple):
  """One command of a recipe.

  Attributes:
    name: what it is for.
    done: path that exists once it is complete; None if it is run each time, as training and
      evaluation are, which resume by themselves.
    command: a module and its arguments, as for `python -m`.
  """

  name: str
  done: Path | None
  command: list[str]

  @property
  def complete(self) -> bool:
    """Whether the step will be skipped."""
    return self.done is not None and self.done.exists()


RECIPES = {
  name: Recipe(
    preset=name,
    configs=preset.demo_configs,
    parts=1,
    train=6144,
    validation=256,
    scenes=('--motions=left,right,up,down,grow,shrink,stay',),
    encode=('--max_objects=3', '--words_length=32', '--words_prompt_length=12', '--no-permute'),
    codec='lapped:2x6x6x32',
  )
  for name, preset in PRESETS.items()
  if preset.demo_configs
}


def run(args: argparse.Namespace) -> None:
  """Run all steps of the demo that are not complete.

  Args:
    args: flags of `ttm_jax.demo`.

  Raises:
    InputError: If the output folder cannot be written, or a step fails.
  """
  # A folder of its own, since the demo keeps the scenes that it finds.
  suffix = ('' if args.preset == DEFAULT else f'-{args.preset}') + ('-quick' if args.quick else '')
  root = Path(args.workdir or f'runs/demo{suffix}')
  outputs.check('--workdir', folders=[root])
  seconds = run_all(steps(root, RECIPES[args.preset], args.quick))
  finish(root, seconds)


def finish(root: Path, seconds: dict[str, float]) -> None:
  """Add the seconds of the steps to metrics.json, and say where the results are."""
  path = root / 'metrics.json'
  figures = {**json.loads(path.read_text()), 'seconds': seconds}
  write_text(path, json.dumps(figures, indent=2) + '\n')
  print(f'\n{seconds["all"] / 60:.1f} minutes. Open {root}/report.html; the figures: {path}')


def steps(root: Path, recipe: Recipe, quick: bool = False) -> list[Step]:
  """Return the steps of a recipe.

  Args:
    root: the output folder.
    recipe: what to make and train.
    quick: whether to make and train next to nothing.
  """
  parts = min(recipe.parts, _QUICK_PARTS) if quick else recipe.parts
  train = _QUICK_TRAIN if quick else recipe.train // parts
  validation = _QUICK_VALIDATION if quick else recipe.validation
  names = [f'/{part:02}' if parts > 1 else '' for part in range(parts)]
  clips, latents = [[Path(f'{root}/{kind}{name}') for name in names] for kind in _KINDS]
  made = []
  for part in range(parts):
    count = f' {part + 1} of {parts}' if parts > 1 else ''
    seed = [f'--seed={part}'] if part else []
    made.append(
      Step(
        f'Make scenes{count}',
        clips[part],
        [
          'data_tools.make_scenes',
          f'--out={clips[part]}',
          f'--train={train}',
          f'--validation={0 if part else validation}',
          *recipe.scenes,
          f'--workers={recipe.workers}',
          *seed,
        ],
      )
    )
  for part in range(parts):
    count = f' {part + 1} of {parts}' if parts > 1 else ''
    made.append(
      Step(
        f'Encode them{count}',
        latents[part],
        [
          'data_tools.encode',
          f'--clips={clips[part]}',
          f'--out={latents[part]}',
          f'--preset={recipe.preset}',
          f'--codec={latents[0] if part else recipe.codec}',
          *recipe.encode,
        ],
      )
    )
  stages = root / 'stage1', root / 'stage2'
  few = [f'--config.train.steps={QUICK_STEPS}', *recipe.quick] if quick else []
  for config, run, name in zip(recipe.configs, stages, _TRAINING, strict=True):
    data = f'--config.data.path={root / "latents"}'
    command = ['ttm_jax.train', f'--config={config}', f'--workdir={run}', data, *few]
    made.append(Step(name, None, command))
  pair = [f'--stage{i}={run}' for i, run in enumerate(stages, 1)]
  command = ['ttm_jax.evaluate', *pair, f'--clips={clips[0]}', f'--out={root}']
  return [*made, Step('Evaluate', None, command)]


def run_all(todo: list[Step], platforms: str = 'cpu') -> dict[str, float]:
  """Run the steps that are not complete.

  Args:
    todo: the steps.
    platforms: see `commands.environment`.

  Returns:
    Seconds of each step that was run, and of all by the name `all`.

  Raises:
    InputError: If a step fails.
  """
  begin = time.perf_counter()
  seconds = {}
  for step in todo:
    if step.complete:
      print(f'\n{step.name}: {step.done} exists already', flush=True)
      continue
    started = time.perf_counter()
    run_command(step.name, step.command, platforms)
    seconds[step.name] = round(time.perf_counter() - started, 1)
  seconds['all'] = round(time.perf_counter() - begin, 1)
  return seconds
