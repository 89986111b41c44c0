"""What `python -m ttm_jax.showcase` does."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from ttm_jax import outputs
from ttm_jax.commands.demo import Recipe, finish, run_all, steps
from ttm_jax.errors import InputError
from ttm_jax.preset_names import DEFAULT

_ENCODE = ('--max_objects=4', '--words_length=48', '--words_prompt_length=12', '--no-permute')

RECIPES = {
  '64': Recipe(
    preset=DEFAULT,
    configs=('showcase_stage1', 'showcase_stage2'),
    parts=8,
    train=16_384,
    validation=256,
    scenes=('--size=64', '--frames=16', '--max_objects=4'),
    encode=('--config=showcase_stage1', *_ENCODE),
    codec='lapped:2x8x8x48',
  ),
  # Prepared, not rendered while training: a latents record takes 0.4 MB, all of them 26 GB.
  '128': Recipe(
    preset=DEFAULT,
    configs=('showcase_large_stage1', 'showcase_large_stage2'),
    parts=16,
    train=65_536,
    validation=256,
    scenes=('--size=128', '--frames=16', '--max_objects=4'),
    encode=('--config=showcase_large_stage1', *_ENCODE),
    codec='lapped:2x8x8x48',
    workers=os.cpu_count() or 1,
    quick=('--config.data.batch_size=2',),
  ),
}
# What a user should know before it starts. Not measured to the end.
ABOUT = {
  '64': 'networks of 5 M parameters; about a day on two CPU cores',
  '128': 'networks of 100 M parameters in bfloat16; an estimated 3 hours a stage on an H200, after'
  ' an hour or more for the scenes, and 60 GB of disk',
}


def run(args: argparse.Namespace) -> None:
  """Run all steps of the showcase that are not complete.

  Args:
    args: flags of `ttm_jax.showcase`.

  Raises:
    InputError: If the output folder cannot be written, or a step fails.
  """
  found = backend()
  size = args.size if args.size != 'auto' else size_for(found)
  root = Path(args.workdir or f'runs/showcase-{size}{"-quick" if args.quick else ""}')
  outputs.check('--workdir', folders=[root])
  todo = steps(root, RECIPES[size], args.quick)
  about = 'next to no training' if args.quick else ABOUT[size]
  print(f'{size} x {size} pixels, 16 frames, 1 to 4 objects, all motions, on {found}: {about}.')
  print(f'{sum(step.complete for step in todo)} of {len(todo)} steps are complete in {root}.')
  print('Stop at any time; the same command continues.', flush=True)
  finish(root, run_all(todo, platforms=''))


def size_for(backend: str) -> str:
  """Return the size of the scenes for a JAX backend."""
  return '64' if backend == 'cpu' else '128'


def backend() -> str:
  """Return the backend that JAX chooses here, such as 'cpu' or 'gpu'.

  A process of its own asks, since this one would keep the memory of a GPU from the steps.

  Raises:
    InputError: If JAX cannot start.
  """
  ask = 'import jax; print(jax.default_backend())'
  ended = subprocess.run([sys.executable, '-c', ask], capture_output=True, text=True)
  if ended.returncode:
    last = (ended.stderr.strip() or 'no message').splitlines()[-1]
    raise InputError(f'JAX does not start here ({last}): set JAX_PLATFORMS=cpu, or repair it')
  return ended.stdout.strip()
