"""Programs as the compiler for TPUs has laid them out in memory, before it writes machine code.

A plan needs the instructions that are left after all optimisations, and the places of their arrays.
Both are known after a small part of the time that compiling takes: of the forward pass of the U-Net
after 41 of 583 seconds on two cores. No option ends the compiler there. So it runs in a process of
its own, writes down what it has come to (as `--xla_dump_to` has it), and is ended as soon as the
places are known.
"""

import contextlib
import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from jax.sharding import Mesh

from ttm_jax.planning.compile import PLANNED, Run
from ttm_jax.planning.hardware import Topology
from ttm_jax.planning.hlo import Program, parse

# What a process can be asked to compile.
STEP, SAMPLER = 'step', 'sampler'

# The names under which the compiler writes down the program, and where its arrays lie; both are
# complete once it has begun with what comes next.
_PROGRAM, _PLACES = '.after_optimizations.txt', '.after_optimizations-buffer-assignment.txt'
_NEXT = '.after_optimizations-buffer-assignment-values.txt'

# Says which array or group of arrays, whose memory (that of the device has no colour), what for.
_ALLOCATION = re.compile(r'allocation \d+: size (\d+), (?:color (\d+), )?(.*)')

# What the compiler says instead of a program that is too large: of all of it, or of its
# temporaries alone where already they are too much.
_TOO_LARGE = re.compile(
  r'(?:Used |HLO temporaries \()([\d.]+)([KMGT])(?: of [\d.]+[KMGT] hbm|\) exceeds available HBM)'
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class TooLarge(Exception):
  """A program needs more memory than a device has.

  Attributes:
    needed: bytes a device.
  """

  def __init__(self, needed: float):
    super().__init__(f'{needed / 1e9:.1f} GB')
    self.needed = needed


@dataclasses.dataclass(frozen=True)
class BufferLayout:
  """One program on one device.

  Attributes:
    program: its instructions.
    arguments: bytes of what it is given.
    temporaries: bytes of all else in the memory of the device, but for what it returns in place of
      arguments, and for the machine code.
  """

  program: Program
  arguments: float
  temporaries: float


def lay_out(run: Run, mesh: Mesh, topology: Topology, what: Sequence[str]) -> list[BufferLayout]:
  """Compiles programs of a run, all at once, as far as a plan needs it.

  Args:
    run: as `Run.make` makes it.
    what: STEP, SAMPLER.

  Raises:
    TooLarge: where the compiler finds no way to fit.
    RuntimeError: where it fails in another way; with its last words.
  """
  asked = {
    'config': run.config.to_dict(),
    'clip': run.clip,
    'topology': topology.name,
    'slices': topology.slices,
    'mesh': dict(mesh.shape),
  }
  with contextlib.ExitStack() as stack:
    started = [stack.enter_context(_compiling(asked | {'what': one})) for one in what]
    run.state()  # It will be asked for, and takes a while.
    found: dict[int, BufferLayout] = {}
    while len(found) < len(started):
      for i, (process, folder) in enumerate(started):
        if i not in found and (process.poll() is not None or list(folder.glob(f'*{_NEXT}'))):
          found[i] = _read(folder)
          process.kill()  # What it would still do is not needed, and others may have its cores.
      time.sleep(0.1)
    return [found[i] for i in range(len(started))]


@contextlib.contextmanager
def _compiling(asked: dict) -> Iterator[tuple[subprocess.Popen, Path]]:
  """A process that compiles, and the folder for what it writes; both are gone afterwards."""
  with tempfile.TemporaryDirectory(prefix='ttm_plan_') as name:
    folder = Path(name)
    what = f'--xla_dump_hlo_module_re=jit_{PLANNED} --xla_dump_disable_metadata'
    options = f'--xla_dump_to={folder} --xla_dump_hlo_as_text {what}'
    with (folder / 'words').open('w') as words:
      process = subprocess.Popen(
        [sys.executable, '-m', 'ttm_jax.planning.worker'],
        env=os.environ
        | {'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {options}', 'JAX_PLATFORMS': 'cpu'},
        stdin=subprocess.PIPE,
        stdout=words,
        stderr=subprocess.STDOUT,
        text=True,
      )
    assert process.stdin is not None
    try:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f'{json.dumps(asked)}\n')
        process.stdin.flush()  # It stays open: where it ends, so does the process.
      yield process, folder
    finally:
      process.kill()
      process.wait()
      with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _read(folder: Path) -> BufferLayout:
  if not list(folder.glob(f'*{_NEXT}')):
    raise _error((folder / 'words').read_text(errors='replace'))
  (program,), (places,) = folder.glob(f'*{_PROGRAM}'), folder.glob(f'*{_PLACES}')
  with places.open() as lines:
    arguments, temporaries = sizes(lines)
  gc.disable()  # As in the worker: of what is read nothing is garbage.
  try:
    return BufferLayout(parse(program.read_text()), arguments, temporaries)
  finally:
    gc.enable()


def sizes(lines: Iterator[str] | Sequence[str]) -> tuple[float, float]:
  """Bytes of (arguments, all else) in the memory of the device, by the compiler's list."""
  arguments = others = 0.0
  for line in lines:
    found = _ALLOCATION.match(line)
    if found is None or found.group(2):
      continue
    size, purpose = float(found.group(1)), found.group(3)
    if purpose.startswith('parameter'):
      arguments += size
    elif not purpose.startswith('thread-local'):  # The registers of a loop or of a fusion.
      others += size
  return arguments, others


def _error(words: str) -> Exception:
  found = _TOO_LARGE.search(words)
  if found:
    return TooLarge(float(found.group(1)) * _UNITS[found.group(2)])
  last = words.strip().splitlines()[-1:] or ['it said nothing']
  return RuntimeError(f'the compiler for TPUs failed: {last[0]}')
