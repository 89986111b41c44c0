"""Benchmark data preparation and loading on this machine.

    python -m benchmarks.data [--only import,memory,demo,paper]

import   throughput of importing videos with masks into a clips dataset: two workers, no models
memory   peak memory of an import of 50 and of 500 clips from one long video
demo     throughput of the loader on records of the demo
paper    throughput of the loader on one core, on records of 256 x 256 x 128 videos

Generates videos and records in a temporary folder (2 GB). Run it on an idle machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from ttm_jax import trajectory
from ttm_jax.arguments import command_parser
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data import latents
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, EncodedClips, null_text
from ttm_jax.data.loader import batches
from ttm_jax.scenes.generator import SceneConfig, Scenes
from ttm_jax.text.encoders import CLIP_L, TextEncoderSpec

DEMO_STEP = 178  # Training throughput of the demo in samples/s: stage 1 on two cores.
# Text encoders, tokens per caption, tokens per object prompt, and number of object prompts.
CLIP = {'clip': CLIP_L}
MOVIE_GEN = {'ul2': TextEncoderSpec(4096, 256, 64), 'byt5': TextEncoderSpec(1472, 100, 64), **CLIP}
PAPER = {
  'CLIP-L': (CLIP, 77, 77, 2),
  'UL2, ByT5, CLIP-L; captions of 40 tokens, 2 prompts of 15': (MOVIE_GEN, 40, 15, 2),
  'UL2, ByT5, CLIP-L; all tokens and 8 prompts full': (MOVIE_GEN, 256, 64, 8),
}


def main() -> None:
  parser = command_parser('benchmarks.data', __doc__)
  parser.add_argument(
    '--only', default='import,memory,demo,paper', help='comma-separated benchmarks'
  )
  parser.add_argument('--videos', type=int, default=24, help='videos for import; default 24')
  parser.add_argument('--records', type=int, default=96, help='records for paper; default 96')
  args = parser.parse_args()
  table = Table('measure', 'figure', title=f'{len(os.sched_getaffinity(0))} cores')
  measures = {
    'import': lambda root: importing(root, args.videos),
    'memory': memory,
    'demo': demo,
    'paper': lambda root: paper(root, args.records),
  }
  for name in args.only.split(','):
    with tempfile.TemporaryDirectory(prefix='data') as folder:
      for measure, figure in measures[name](Path(folder)):
        table.add_row(measure, figure)
  Console().print(table)


# Benchmarks of data preparation (videos to clips).


def importing(root: Path, videos: int) -> Iterator[tuple[str, str]]:
  """Measure clips/s without startup time, from the difference of two jobs."""
  frames, size = 96, (360, 640)
  for number in range(videos):
    folder = root / 'videos' / f'v{number:03d}'
    write_film(folder / 'video.mp4', frames, size, 24, number)
    trajectory.write_folder(folder / 'masks', masks(frames, size, number))
  given = sum(file.stat().st_size for file in root.rglob('*') if file.is_file())
  seconds, clips, written = {}, {}, 0
  for count in (videos // 3, videos):
    keys = {f'v{n:03d}': SAID for n in range(count)}
    out = root / f'out{count}'
    seconds[count], _ = prepare(root / 'videos', out, keys, '16x256x256', 8, 2)
    clips[count] = json.loads((out / 'report.json').read_text())['windows']['accepted']
    written = sum(file.stat().st_size for file in out.glob('clips-*'))
  few, all_ = seconds
  rate = (clips[all_] - clips[few]) / (seconds[all_] - seconds[few])
  pixels = 3 * 16 * 256 * 256 / 1e6
  yield 'import, two workers, 640x360 at 24 fps to 16x256x256 at 8', f'{rate:.1f} clips/s'
  yield '  pixels of the clips', f'{rate * pixels:.1f} MB/s'
  yield '  read, as files', f'{rate * given / clips[all_] / 1e6:.2f} MB/s'
  yield '  written, as files', f'{rate * written / clips[all_] / 1e6:.2f} MB/s'
  yield '  start of the job', f'{seconds[few] - clips[few] / rate:.1f} s'


def memory(root: Path) -> Iterator[tuple[str, str]]:
  """Measure the peak memory of jobs on a short and a long video."""
  size = (240, 320)
  for clips in (50, 500):
    folder = root / str(clips) / 'long'
    write_film(folder / 'video.mp4', clips * 16, size, 8, 0)
    trajectory.write_folder(folder / 'masks', masks(clips * 16, size, 0))
    seconds, peak = prepare(folder.parent, root / f'out{clips}', {'long': SAID}, '16x128x128', 8, 1)
    whole = clips * 16 * size[0] * size[1] * 3 / 1e6
    yield (
      f'peak of {clips} clips of one video of {clips * 16} frames ({whole:.0f} MB of pixels)',
      f'{peak:.0f} MB, {seconds:.0f} s',
    )


SAID = {
  'c': 'A disc moves.',
  'c_motion': 'It moves.',
  'c_local': {'1': 'a disc that moves', '2': 'a square that moves'},
}


def prepare(
  source: Path, out: Path, captions: dict, clip: str, fps: int, workers: int
) -> tuple[float, float]:
  """Run `data_tools.prepare` as users do.

  Returns:
    Duration in seconds, and peak memory of the main process in MB.
  """
  table = out.with_suffix('.json')
  table.write_text(json.dumps(captions))
  command = [sys.executable, '-m', 'data_tools.prepare', f'--source={source}', f'--out={out}']
  command += [f'--captions={table}', f'--clip={clip}', f'--fps={fps}', '--kind=vos']
  command += [f'--workers={workers}', '--videos_per_shard=2']
  start, peak = time.perf_counter(), 0
  with tempfile.TemporaryFile() as said:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
    # Not by getrusage: its peak includes that of the parent process before exec.
    while process.poll() is None:
      peak = max(peak, resident(process.pid))
      time.sleep(0.05)
    if process.returncode:
      said.seek(0)
      raise SystemExit(said.read().decode())
  return time.perf_counter() - start, peak / 1e6


def resident(process: int) -> int:
  """Return the peak resident memory of a process so far, in bytes; 0 if it has ended."""
  try:
    lines = Path(f'/proc/{process}/status').read_text().splitlines()
  except OSError:
    return 0
  return sum(1024 * int(line.split()[1]) for line in lines if line.startswith('VmHWM:'))


def masks(frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
  """Return label maps of a moving disc and a moving square, uint8 [T, H, W]."""
  height, width = size
  y, x = np.indices(size)
  ids = np.zeros((frames, *size), np.uint8)
  for t in range(frames):
    along = width / 4 + (t * 3 + seed * 7) % (width / 2)
    ids[t, (abs(y - height * 0.6) < height / 8) & (abs(x - along) < height / 8)] = 2
    ids[t, (y - height / 3) ** 2 + (x - width + along) ** 2 < (height / 6) ** 2] = 1
  return ids


def write_film(path: Path, frames: int, size: tuple[int, int], fps: int, seed: int) -> None:
  """Write a video with the objects of `masks` on a textured background."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 255, (size[0] // 8 + 2, size[1] // 8 + 2, 3), np.uint8)
  ground = coarse.repeat(8, 0).repeat(8, 1)
  ids = masks(min(frames, 512), size, seed)
  colors = np.array([[0, 0, 0], [230, 40, 40], [40, 90, 220]], np.uint8)
  path.parent.mkdir(parents=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', fps, {'crf': '20', 'preset': 'veryfast'})
    stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
    for t in range(frames):
      shift = t % 8
      view = ground[shift : shift + size[0], shift : shift + size[1]]
      owner = ids[t % len(ids)]
      picture = np.where(owner[..., None] > 0, colors[owner], view)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
    container.mux(stream.encode(None))


# Benchmarks of the loader (records to batches).


def demo(root: Path) -> Iterator[tuple[str, str]]:
  """Measure the throughput of the loader on records of the demo."""
  scenes = Scenes(SceneConfig(size=(48, 48), frames=8), 512)
  some = [scenes[i] for i in range(64)]
  videos = [clip.video for clip in some] + [trajectory.render(clip.ids) for clip in some]
  codec = LinearCodec.fit(videos, (2, 6, 6), 32)
  encoding = Encoding(
    'dit', 8, 48, 48, 8.0, 'spread8', 3, {'words': TextEncoderSpec(128, 32, 12)}, ((4, 4),)
  )
  context = Context(encoding, codec, null_text(encoding, TEXT_ENCODERS))
  latents.write_latents(root / 'out', context, {'train': EncodedClips(scenes, context)})
  source = latents.Latents(root / 'out', 'train')
  seconds, work, size = timed(source, 8, 1024, threads=4)
  yield (
    'loader, records of the demo, batch 8',
    f'{1 / seconds:.0f} samples/s ({1000 * work:.2f} ms of work), {size / seconds / 1e6:.0f} MB/s',
  )
  yield f'  times what the demo trains ({DEMO_STEP} a second)', f'{1 / seconds / DEMO_STEP:.0f}'


def paper(root: Path, count: int) -> Iterator[tuple[str, str]]:
  """Measure the time per sample of the loader on one core, at the size of the paper's DiT."""
  for number, (name, texts) in enumerate(PAPER.items()):
    record = paper_record(np.random.default_rng(0), *texts)
    folder = root / str(number)
    some = ((str(i), {**record, 'key': str(i)}) for i in range(count))
    latents.write_records(folder, {'train': some})
    source = latents.Latents(folder, 'train')
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
      # The batch of a host with four chips at two samples per chip.
      seconds, work, size = timed(source, 8, 32, threads=1)
    finally:
      os.sched_setaffinity(0, cores)
    yield (
      f'loader on one core, 256x256x128, {name}',
      f'{1000 * seconds:.2f} ms a sample of {size / 1e6:.1f} MB ({1000 * work:.2f} ms of work),'
      f' {size / seconds / 1e6:.0f} MB/s',
    )


def paper_record(
  rng: np.random.Generator,
  encoders: dict[str, TextEncoderSpec],
  said: int,
  prompt: int,
  objects: int,
) -> dict:
  """Return a random record of 128 x 256 x 256 pixels, with an 8 x 8 x 8 codec of 16 channels.

  Args:
    rng: source of randomness.
    encoders: text encoders by name. CLIP always has the full number of tokens.
    said: valid tokens of captions.
    prompt: valid tokens of object prompts.
    objects: number of object prompts, out of eight slots.
  """

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float16)

  cells, slots = (16, 16, 16), 8
  record = {
    'key': '',
    'ids': rng.bytes(60_000),
    'permutation': np.arange(8, dtype=np.uint8),
    'corrupted': np.asarray(0, np.uint8),
    'token_masks.0.region': rng.integers(0, 3, cells, np.uint8),
    'token_masks.0.box': rng.integers(0, 8, cells, np.int32),
    'token_masks.0.seg': rng.integers(0, 8, cells, np.int32),
    'first_frame': normal(1, 32, 32, 16),
    'first_mask': normal(1, 32, 32, 16),
  }
  for name in ('video', 'trajectory'):
    record |= {name: normal(16, 32, 32, 16), f'{name}_logvar': normal(16, 32, 32, 16)}
  for name, e in encoders.items():
    every = name == 'clip'
    for field in ('caption', 'motion'):
      record[f'text.{name}.{field}'] = normal(e.length, e.dim)
      count = e.length if every else min(said, e.length)
      record[f'text.{name}.{field}_length'] = np.asarray(count, np.int32)
    counts = np.zeros(slots, np.int32)
    counts[:objects] = e.prompt_length if every else min(prompt, e.prompt_length)
    record[f'text.{name}.prompts'] = normal(slots, e.prompt_length, e.dim)
    record[f'text.{name}.prompts_length'] = counts
  return record


def timed(
  source: latents.Latents, batch: int, steps: int, threads: int
) -> tuple[float, float, float]:
  """Return wall seconds, CPU seconds and bytes per sample of a warmed-up loader."""
  stream = batches(source.stored, batch, seed=0, threads=threads, collate=source.collate)
  for _ in range(4):
    first = next(stream)
  size = sum(array.nbytes for array in first.values()) / batch
  start, begun = time.perf_counter(), time.process_time()
  for _ in range(steps):
    next(stream)
  seconds, work = time.perf_counter() - start, time.process_time() - begun
  return seconds / steps / batch, work / steps / batch, size


if __name__ == '__main__':
  main()
