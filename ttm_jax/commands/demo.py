"""What `python -m ttm_jax.demo` does."""

import argparse
import json
import time
from pathlib import Path

from ttm_jax import outputs
from ttm_jax.atomic import write_text
from ttm_jax.commands import run_command
from ttm_jax.preset_names import DEFAULT
from ttm_jax.presets import PRESETS

CONFIGS = {name: preset.demo_configs for name, preset in PRESETS.items() if preset.demo_configs}

QUICK_STEPS = 20  # Training steps of each stage with --quick.


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
  begin = time.perf_counter()
  seconds = {}
  for name, done, command in steps(root, args.preset, args.quick):
    if done is not None and done.exists():
      print(f'\n{name}: {done} exists already', flush=True)
      continue
    started = time.perf_counter()
    run_command(name, command)
    seconds[name] = round(time.perf_counter() - started, 1)
  seconds['all'] = round(time.perf_counter() - begin, 1)
  path = root / 'metrics.json'
  figures = {**json.loads(path.read_text()), 'seconds': seconds}
  write_text(path, json.dumps(figures, indent=2) + '\n')
  print(f'\n{seconds["all"] / 60:.1f} minutes. Open {root}/report.html; the figures: {path}')


def steps(root: Path, preset: str, quick: bool = False) -> list[tuple[str, Path | None, list[str]]]:
  """Return the name, completion marker and command of each step.

  A step is skipped if its completion marker exists. Training steps have none, since training
  resumes by itself, and neither does evaluation.

  Args:
    root: the output folder.
    preset: the backbone.
    quick: whether to make and train next to nothing.
  """
  clips, latents = root / 'clips', root / 'latents'
  stage1, stage2 = root / 'stage1', root / 'stage2'

  def train(config: str, workdir: Path) -> list[str]:
    data = f'--config.data.path={latents}'
    few = [f'--config.train.steps={QUICK_STEPS}'] if quick else []
    return ['ttm_jax.train', f'--config={config}', f'--workdir={workdir}', data, *few]

  return [
    (
      'Make scenes',
      clips,
      [
        'data_tools.make_scenes',
        f'--out={clips}',
        f'--train={64 if quick else 6144}',
        f'--validation={8 if quick else 256}',
        '--motions=left,right,up,down,grow,shrink,stay',
        '--workers=2',
      ],
    ),
    (
      'Encode them',
      latents,
      [
        'data_tools.encode',
        f'--clips={clips}',
        f'--out={latents}',
        f'--preset={preset}',
        '--codec=lapped:2x6x6x32',
        '--max_objects=3',
        '--words_length=32',
        '--words_prompt_length=12',
        '--no-permute',
      ],
    ),
    ('Train stage 1, image to motion', None, train(CONFIGS[preset][0], stage1)),
    ('Train stage 2, motion to video', None, train(CONFIGS[preset][1], stage2)),
    (
      'Evaluate',
      None,
      [
        'ttm_jax.evaluate',
        f'--stage1={stage1}',
        f'--stage2={stage2}',
        f'--clips={clips}',
        f'--out={root}',
      ],
    ),
  ]
