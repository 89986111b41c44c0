"""Compile programs for TPUs through buffer assignment, without generating machine code.

A plan needs the optimized HLO and the buffer assignment. Both are known early in the compilation:
for the forward pass of the U-Net after 41 of 583 seconds on two cores. The compiler has no option
to stop there. So it runs in a subprocess that dumps its intermediate results (`--xla_dump_to`), and
is killed once the buffer assignment is written.
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

# The programs that a worker process can compile.
STEP, SAMPLER = 'step', 'sampler'

# Suffixes of the dump files of the optimized HLO and of the buffer assignment. Both files are
# complete once the file that the compiler writes next exists.
_PROGRAM, _PLACES = '.after_optimizations.txt', '.after_optimizations-buffer-assignment.txt'
_NEXT = '.after_optimizations-buffer-assignment-values.txt'

# The file with the output of a worker.
_OUTPUT = 'output'

# Size, memory space ("color"; device memory has none) and purpose of an allocation.
_ALLOCATION = re.compile(r'allocation \d+: size (\d+), (?:color (\d+), )?(.*)')

# Compiler error for a program that exceeds the device memory. It states the total size, or only
# the temporaries if these already exceed the memory.
_TOO_LARGE = re.compile(
  r'(?:Used |HLO temporaries \()([\d.]+)([KMGT])(?: of [\d.]+[KMGT] hbm|\) exceeds available HBM)'
)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class TooLarge(Exception):
  """Raised when a program needs more memory than a device has.

  Attributes:
    needed: bytes per device that the program needs.
  """

  def __init__(self, needed: float):
    super().__init__(f'{needed / 1e9:.1f} GB')
    self.needed = needed


@dataclasses.dataclass(frozen=True)
class BufferLayout:
  """The optimized program and buffer sizes of one device.

  Attributes:
    program: the optimized HLO.
    arguments: bytes of the arguments.
    temporaries: bytes of all other buffers in device memory, without donated outputs and machine
      code.
  """

  program: Program
  arguments: float
  temporaries: float


def lay_out(run: Run, mesh: Mesh, topology: Topology, what: Sequence[str]) -> list[BufferLayout]:
  """Compile programs of a run in parallel, through buffer assignment.

  Args:
    run: a run from `Run.make`.
    mesh: the mesh to compile for.
    topology: the devices of the mesh.
    what: the programs: STEP, SAMPLER.

  Returns:
    The layouts, in the order of `what`.

  Raises:
    TooLarge: a program does not fit in the device memory.
    RuntimeError: the compiler failed otherwise; the message holds the last line of its output.
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
    run.state()  # The caller needs it later: evaluate and cache it while the workers compile.
    found: dict[int, BufferLayout] = {}
    while len(found) < len(started):
      for i, (process, folder) in enumerate(started):
        if i not in found and (process.poll() is not None or list(folder.glob(f'*{_NEXT}'))):
          found[i] = _read(folder)
          process.kill()  # Machine code is not needed; free the cores for the other workers.
      time.sleep(0.1)
    return [found[i] for i in range(len(started))]


@contextlib.contextmanager
def _compiling(asked: dict) -> Iterator[tuple[subprocess.Popen, Path]]:
  """Yield a compiler process and its dump folder; end the process and delete the folder on exit."""
  with tempfile.TemporaryDirectory(prefix='ttm_plan_') as name:
    folder = Path(name)
    what = f'--xla_dump_hlo_module_re=jit_{PLANNED} --xla_dump_disable_metadata'
    options = f'--xla_dump_to={folder} --xla_dump_hlo_as_text {what}'
    flags = f'{os.environ.get("XLA_FLAGS", "")} {options}'
    with (
      (folder / _OUTPUT).open('w') as output,
      subprocess.Popen(
        [sys.executable, '-m', 'ttm_jax.planning.worker', json.dumps(asked)],
        env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
        stdin=subprocess.PIPE,  # The worker exits when it closes.
        stdout=output,
        stderr=subprocess.STDOUT,
      ) as process,
    ):
      try:
        yield process, folder
      finally:
        process.kill()


def _read(folder: Path) -> BufferLayout:
  if not list(folder.glob(f'*{_NEXT}')):
    raise _error((folder / _OUTPUT).read_text(errors='replace'))
  (program,), (places,) = folder.glob(f'*{_PROGRAM}'), folder.glob(f'*{_PLACES}')
  with places.open() as lines:
    arguments, temporaries = sizes(lines)
  gc.disable()  # Parsing creates many objects and no garbage, so collections only cost time.
  try:
    return BufferLayout(parse(program.read_text()), arguments, temporaries)
  finally:
    gc.enable()


def sizes(lines: Iterator[str] | Sequence[str]) -> tuple[float, float]:
  """Return the bytes of (arguments, all other buffers) in device memory.

  Args:
    lines: the buffer assignment dump of the compiler.
  """
  arguments = others = 0.0
  for line in lines:
    found = _ALLOCATION.match(line)
    if found is None or found.group(2):
      continue
    size, purpose = float(found.group(1)), found.group(3)
    if purpose.startswith('parameter'):
      arguments += size
    elif not purpose.startswith('thread-local'):  # Registers of a loop or fusion, not memory.
      others += size
  return arguments, others


def _error(output: str) -> Exception:
  found = _TOO_LARGE.search(output)
  if found:
    return TooLarge(float(found.group(1)) * _UNITS[found.group(2)])
  last = output.strip().splitlines()[-1:] or ['no output']
  return RuntimeError(f'the TPU compiler failed: {last[0]}')
