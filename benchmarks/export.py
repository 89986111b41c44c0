"""Measure the memory of an export by model size, and the speed of PyTorch relative to JAX.

    python -m benchmarks.export --memory
    python -m benchmarks.export --speed --stage1 runs/demo/stage1 --stage2 runs/demo/stage2

Memory: exports transformers of increasing size with random weights, each in its own process. The
slope of peak memory over checkpoint size (float32, as saved) predicts the memory for a 4B model.
Speed: both pipelines generate the same clips with the same number of steps, one after the other. A
first run that compiles is not timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main() -> None:
  """Measure what the flags ask for."""
  made = argparse.ArgumentParser('python -m benchmarks.export', description=__doc__)
  made.formatter_class = argparse.RawDescriptionHelpFormatter
  add = made.add_argument
  add('--memory', action='store_true', help='measure the peak memory of exports')
  add('--layers', type=int, nargs='+', default=[3, 6, 9], help='layers of the models, 60 MB each')
  add('--speed', action='store_true', help='compare the speed of JAX and PyTorch')
  add('--stage1', help='run of stage 1 for --speed')
  add('--stage2', help='run of stage 2 for --speed')
  add('--repeat', type=int, default=3, help='timings per measurement; the median counts')
  add('--peak', nargs=3, help=argparse.SUPPRESS)
  args = made.parse_args()
  if args.peak:
    print(json.dumps(peak(*map(Path, args.peak))))
  if args.memory:
    memory(args.layers)
  if args.speed:
    speed(Path(args.stage1), Path(args.stage2), args.repeat)


def memory(sizes: list[int]) -> None:
  """Print the peak memory of exports by checkpoint size, and the slope."""
  points = []
  for layers in sizes:
    with tempfile.TemporaryDirectory() as folder:
      one, two = (_run(Path(folder), stage, layers) for stage in (1, 2))
      _run(Path(folder) / 'small', 2, 1)
      command = [sys.executable, '-m', 'benchmarks.export', '--peak', one, two, f'{folder}/out']
      said = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
      found = json.loads(said.stdout.splitlines()[-1])
      size = _bytes(next((two / 'checkpoints').glob('*/ema')))
      points.append((size, found['peak'] - found['before']))
      print(
        f'{layers} layers: averaged weights {size / 1e6:.0f} MB; {found["before"] / 1e6:.0f} MB'
        f' before the export, {found["peak"] / 1e6:.0f} MB at most in it; {found["seconds"]:.1f} s',
        flush=True,
      )
  slope, rest = np.polyfit(*zip(*points, strict=True), 1)
  print(f'slope {slope:.2f} of the averaged weights, {rest / 1e6:.0f} MB besides')


def peak(one: Path, two: Path, out: Path) -> dict[str, float]:
  """Return the peak memory of this process before and after an export (bytes), and its seconds."""
  from ttm_jax.exporting.folder import export

  def highest() -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) * 1024

  # Run a small export first, so that the memory of the libraries is not counted.
  export(one, out.parent / 'small' / 'stage2', out.with_name('warm'))
  Path('/proc/self/clear_refs').write_text('5')  # Resets the peak to the current memory.
  before, start = highest(), time.perf_counter()
  export(one, two, out)
  return {'before': before, 'peak': highest(), 'seconds': time.perf_counter() - start}


def _run(folder: Path, stage: int, layers: int) -> Path:
  """Write a run with random weights: one layer for stage 1, `layers` layers for stage 2."""
  from tests.helpers import exported

  number = stage - 1
  where = exported.context('dit')
  sizes = {'width': 1024, 'ffn': 2048, 'heads': 8, 'layers': layers if stage == 2 else 1}
  settings = exported.config('dit', number, **{f'model__{k}': v for k, v in sizes.items()})
  params = exported.parameters(settings, where)
  return exported.save_run(folder / f'stage{stage}', settings, where, params)


def _bytes(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def speed(one: Path, two: Path, repeat: int) -> None:
  """Print the seconds per clip of both pipelines for each stage, and their ratio."""
  import torch

  from tests.helpers.exported import request
  from ttm_jax.exporting.folder import export
  from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
  from ttm_jax.pytorch import TTMPipeline

  with tempfile.TemporaryDirectory() as folder:
    export(one, two, Path(folder) / 'out', 'fp32')
    theirs = TTMPipeline.from_pretrained(Path(folder) / 'out')
  theirs.set_progress_bar_config(disable=True)
  ours = Pipeline(Stage(one, STAGE1), Stage(two, STAGE2))
  height, width = ours.encoding.height, ours.encoding.width
  asked = request().fitted(height, width)
  ids = np.broadcast_to(asked.mask, (ours.encoding.frames, height, width))
  given = {'image': asked.picture, 'prompt': asked.caption, 'segmentation': asked.mask}
  generator = torch.Generator().manual_seed(0)

  def seconds(function) -> float:
    function()
    taken = []
    for _ in range(repeat):
      start = time.perf_counter()
      function()
      taken.append(time.perf_counter() - start)
    return statistics.median(taken)

  print(f'{torch.get_num_threads()} threads, {ours.stage2.sampling_steps} steps, batch 1')
  for name, jax_side, torch_side in (
    (
      'stage 1',
      lambda: ours.trajectories([asked], 0),
      lambda: theirs.generate_trajectory(**given, generator=generator),
    ),
    (
      'stage 2',
      lambda: ours.videos([asked], ids[None], 0),
      lambda: theirs(
        **given,
        object_prompts=dict(asked.prompts),
        trajectory=ids,
        generator=generator,
        output_type='np',
      ),
    ),
  ):
    a, b = seconds(jax_side), seconds(torch_side)
    print(f'{name}: JAX {a:.3f} s, PyTorch {b:.3f} s, PyTorch takes {b / a:.2f} times as long')


if __name__ == '__main__':
  main()
