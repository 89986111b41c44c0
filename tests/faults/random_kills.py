"""Kill a job at random moments, many times: nothing is lost, and the run stays the same.

    python -m tests.faults.random_kills --kills=30 --workdir=DIR

Trains a small stage 1 with several processes twice. One run is uninterrupted. The other is killed
with signal 9 at random moments (one process, sometimes all), and restarted by the same command.
After each kill, every checkpoint that has its final name must be readable and unchanged. At the
end, all losses and the EMA parameters must equal those of the uninterrupted run, bit by bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from launch.local import environments, free_port
from tests.helpers import cli, tiny
from ttm_jax.training.checkpoint import Checkpoints
from ttm_jax.training.sources import read_parameters

KEPT = 3
SPLIT = {'model__layers': 1, 'optimizer__schedule': 'constant', 'train__keep_last': KEPT}
LIMIT = 600  # Seconds in which survivors must exit.


def losses(run: Path) -> dict[int, float]:
  """Return the last logged loss of each step."""
  path = run / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  # A line that the kill truncated is written again.
  told = [json.loads(line) for line in lines if line.endswith('}')]
  return {line['step']: line['train/loss'] for line in told if 'train/loss' in line}


def start(command: list[str], count: int) -> list[cli.Process]:
  places = environments(count, free_port(), flags=os.environ.get('XLA_FLAGS', ''))
  return [cli.start(*command, env=place) for place in places]


def end(processes: list[cli.Process]) -> list[tuple[int, str]]:
  """Return exit codes, and the last line of each process."""
  ended = []
  for process in processes:
    one = process.wait(LIMIT)
    lines = one.err.strip().splitlines()
    ended.append((one.code, lines[-1] if lines else ''))
  return ended


def kill(processes: list[cli.Process], rng: random.Random) -> set[int]:
  """Kill one process, or one time in four all processes."""
  chosen = range(len(processes)) if rng.random() < 0.25 else [rng.randrange(len(processes))]
  for i in chosen:
    os.kill(processes[i].pid, signal.SIGKILL)
  return set(chosen)


def check_survivors(ended: list[tuple[int, str]], killed: set[int]) -> None:
  """JAX aborts survivors, or they give up at start-up, unless they were at their end."""
  for i, (code, line) in enumerate(ended):
    expected = (-signal.SIGABRT, 0, -signal.SIGKILL if i in killed else 2)
    assert code in expected, (i, code, line)


def check_checkpoints(run: Path) -> list[int]:
  """Check every complete checkpoint; older ones may have been partly removed."""
  folder = run / 'checkpoints'
  if not folder.exists():
    return []
  steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
  checkpoints = Checkpoints(folder, read_only=True)
  for step in steps[-KEPT:]:
    jax.tree.map(np.asarray, checkpoints.stored_ema(step))
  checkpoints.close()
  assert not (run / 'damaged').exists()
  return steps


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--workdir',
    type=Path,
    required=True,
    help='a folder to make; an undisturbed run there is used again',
  )
  parser.add_argument('--kills', type=int, default=30)
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--steps', type=int, default=2500)
  parser.add_argument('--every', type=int, default=10, help='steps between checkpoints')
  parser.add_argument('--longest', type=float, default=20.0, help='seconds until a kill, at most')
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  rng, folder, count = random.Random(given.seed), given.workdir, given.processes
  latents = tiny.encode_command(folder / 'scenes', folder / 'latents', f'--codec={tiny.CODEC}')
  for made in (tiny.scenes_command(folder / 'scenes'), latents):
    if not (folder / 'latents').exists():
      subprocess.run(cli.command(*made), cwd=cli.ROOT, check=True, stderr=subprocess.DEVNULL)

  def command(run: Path) -> list[str]:
    changes = SPLIT | {
      'mesh__data': 1,
      'mesh__fsdp': count,
      'train__steps': given.steps,
      'train__checkpoint_every': given.every,
      'job__start_limit': 60,
      'job__peer_limit': 10,
    }
    return tiny.train_command('demo_stage1', run, folder / 'latents', **changes)

  begin = time.monotonic()
  ended = end(start(command(folder / 'whole'), count))
  assert [code for code, _ in ended] == [0] * count, ended
  print(f'undisturbed: {time.monotonic() - begin:.0f} s', flush=True)
  run, killed_runs, last = folder / 'killed', 0, 0
  while killed_runs < given.kills:
    begin = time.monotonic()
    processes = start(command(run), count)
    # One time in four during start-up; otherwise some time after it logs again.
    during = rng.random() < 0.25
    seen = (run / 'metrics.jsonl').stat().st_size if (run / 'metrics.jsonl').exists() else 0
    while not during and all(p.running for p in processes):
      if (run / 'metrics.jsonl').exists() and (run / 'metrics.jsonl').stat().st_size > seen:
        break
      time.sleep(0.02)
    time.sleep(rng.uniform(0, given.longest / (1 if during else 4)))
    if not all(p.running for p in processes):
      print('the run was over: give more --steps for more kills', flush=True)
      end(processes)
      break
    killed = kill(processes, rng)
    moment = time.monotonic()
    ended = end(processes)
    check_survivors(ended, killed)
    steps = check_checkpoints(run)
    assert not steps or steps[-1] >= last, (steps, last)
    last = steps[-1] if steps else last
    killed_runs += 1
    print(
      f'{killed_runs}: killed {sorted(killed)} after {moment - begin:.1f} s; others ended after'
      f' {time.monotonic() - moment:.1f} s with {[code for code, _ in ended]}; logged'
      f' {max(losses(run), default=0)}, checkpoints {steps}',
      flush=True,
    )
  ended = end(start(command(run), count))
  assert [code for code, _ in ended] == [0] * count, ended
  check_checkpoints(run)
  assert losses(run) == losses(folder / 'whole')
  a, b = (read_parameters(folder / name) for name in ('whole', 'killed'))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  print(f'{killed_runs} kills: {given.steps} losses and all parameters are bit-identical')


if __name__ == '__main__':
  sys.exit(main())
