"""Compilation up to buffer assignment: buffer sizes, errors, and the end of the worker process."""

import json
import signal
import subprocess
import sys
import time
from subprocess import Popen
from typing import ClassVar

import pytest

from tests.helpers import tiny
from ttm_jax.planning import layout, memory, worker
from ttm_jax.planning.compile import Run
from ttm_jax.planning.hardware import topology
from ttm_jax.planning.hlo import Computation, Program
from ttm_jax.planning.layout import BufferLayout, TooLarge

# A dump of the TPU compiler. A `color` is a memory space other than device memory.
PLACES = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 reduce_sum.2 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 7000, parameter 6, shape |f32[3,3,160,1280]| at ShapeIndex {}:
allocation 2: size 5000, parameter 7, shape |f32[48,320]| at ShapeIndex {}, maybe-live-out:
allocation 3: size 300, color 5, parameter 8, shape |f32[75]| at ShapeIndex {}:
allocation 4: size 20, output shape is |(s32[], f32[320])|, maybe-live-out:
allocation 5: size 40, constant:
allocation 6: size 26000, color 1, preallocated-temp:
allocation 7: size 900000, preallocated-temp:

Total bytes used: 1
"""

PROGRAM = """
ENTRY %main () -> f32[] {
  ROOT %a = f32[] constant(1)
}
"""

WRITES = """
import json, pathlib, re, sys, time
folder = re.search('--xla_dump_to=([^ ]+)', __import__('os').environ['XLA_FLAGS']).group(1)
for name, text in json.loads(sys.argv[1]).items():
  pathlib.Path(folder, 'module_0001.jit_planned' + name).write_text(text)
time.sleep(600)
"""


class Sixteen:
  """A mesh with only the attributes that are read."""

  shape: ClassVar = {'data': 1, 'fsdp': 16, 'sequence': 1, 'tensor': 1}


def test_buffer_sizes():
  assert layout.sizes(PLACES.splitlines()) == (12_000.0, 900_060.0)


def test_the_compiler_is_stopped_after_buffer_assignment(monkeypatch):
  written = {'.after_optimizations.txt': PROGRAM, layout._PLACES: PLACES, layout._NEXT: ''}
  started = []

  def start(command, **options):
    process = Popen([sys.executable, '-c', WRITES, json.dumps(written)], **options)
    started.append(process)
    return process

  monkeypatch.setattr(subprocess, 'Popen', start)
  run, begin = Run.make(tiny.shrunk('stage1_dit')), time.monotonic()
  machine = topology('v5e:4x4')
  found = layout.lay_out(run, Sixteen(), machine, [layout.STEP, layout.SAMPLER])
  assert [x.program.entry.name for x in found] == ['main', 'main']
  assert {(x.arguments, x.temporaries) for x in found} == {(12_000.0, 900_060.0)}
  assert time.monotonic() - begin < 60
  assert all(process.returncode == -signal.SIGKILL for process in started)


@pytest.mark.parametrize(
  'output, needed',
  [
    ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 49.00G of 15.75G hbm.', 49),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries'
      ' (17.51G) exceeds available HBM (15.75G).',
      17.51,
    ),
  ],
)
def test_out_of_memory_error(output, needed):
  error = layout._error(f'Traceback\n{output}\n')
  assert isinstance(error, TooLarge) and error.needed == pytest.approx(needed * 2**30)


def test_other_compiler_errors():
  assert str(layout._error('a\nINTERNAL: no\n')) == 'the TPU compiler failed: INTERNAL: no'
  # Use a real process: for an unknown configuration it exits with an error message.
  run = Run.make(tiny.shrunk('stage1_dit'))
  run.config.preset = 'nonsense'

  with pytest.raises(RuntimeError, match=r'failed: .*nonsense'):
    layout.lay_out(run, Sixteen(), topology('v5e:4x4'), [layout.STEP])


def test_worker_ends_with_its_parent():
  """It ends at once, not only when it starts to compile."""
  run = Run.make(tiny.shipped('stage2_unet'))
  asked = {'config': run.config.to_dict(), 'clip': None, 'topology': 'v5e:4x4', 'slices': 1}
  command = [sys.executable, '-m', 'ttm_jax.planning.worker', json.dumps(asked)]
  process = Popen(command, stdin=subprocess.PIPE)
  process.communicate(timeout=60)
  assert process.returncode == worker.PARENT_ENDED


def test_memory_of_a_layout(monkeypatch):
  """Padding of arguments to whole tiles counts as temporaries."""
  exact = memory.Memory(1.0, 1.0, 2.0, 1.0, 0.0)
  monkeypatch.setattr(memory, 'held', lambda *_: exact)
  found = memory.of_program(BufferLayout(Program({}, Computation('main')), 7.0, 10.0), None, {})
  assert found.temporaries == 12.0 and found.total == 17.0
