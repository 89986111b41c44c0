"""Run a job of several processes on this machine, connected as on a cluster.

    python -m launch.local --processes=2 -- \\
        python -m ttm_jax.train --config=configs/demo_stage1.py --workdir=runs/two ...

On CPUs each process has one device (`--devices` for more). GPUs are divided among the processes.
Output lines are prefixed with the process index. SIGTERM and SIGINT are forwarded to all processes.
The exit code is that of the first process that fails, which is named; the others are killed 90
seconds later if they have not exited.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

_PATIENCE = 90.0  # Seconds that the other processes have to exit after one has failed.


def free_port() -> int:
  """Return a free TCP port of the loopback interface."""
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return server.getsockname()[1]


def environments(
  count: int,
  port: int,
  devices: int = 1,
  gpus: Sequence[str] = (),
  flags: str = '',
) -> list[dict[str, str]]:
  """Return the environment variables of each process.

  Args:
    count: number of processes.
    port: TCP port of process 0.
    devices: CPU devices per process, if there are no GPUs.
    gpus: ids of the machine's GPUs, divided evenly.
    flags: existing XLA_FLAGS to keep, if there are no GPUs.
  """
  job = {'TTM_COORDINATOR': f'127.0.0.1:{port}', 'TTM_PROCESSES': str(count)}
  if not gpus:
    several = f'{flags} --xla_force_host_platform_device_count={devices}'.strip()
    return [job | {'TTM_PROCESS': str(i), 'XLA_FLAGS': several} for i in range(count)]
  each = len(gpus) // count
  return [
    job | {'TTM_PROCESS': str(i), 'CUDA_VISIBLE_DEVICES': ','.join(gpus[i * each : (i + 1) * each])}
    for i in range(count)
  ]


def gpus() -> list[str]:
  """Return the ids of the visible GPUs (CUDA_VISIBLE_DEVICES, else nvidia-smi)."""
  if 'CUDA_VISIBLE_DEVICES' in os.environ:
    return [name for name in os.environ['CUDA_VISIBLE_DEVICES'].split(',') if name]
  try:
    listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return []
  return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith('GPU')]


def run(command: Sequence[str], places: Sequence[Mapping[str, str]]) -> int:
  """Run a command once per environment, and wait for all processes.

  Args:
    command: the command and its arguments.
    places: additional environment variables of each process.

  Returns:
    The exit code of the first process that fails, 128 + N for signal N; 0 if none does.
  """
  processes = [
    subprocess.Popen(
      command,
      env={**os.environ, **place},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Otherwise Ctrl-C would reach them twice: directly and forwarded.
    )
    for place in places
  ]
  shown = [threading.Thread(target=_show, args=(i, process)) for i, process in enumerate(processes)]
  for thread in shown:
    thread.start()

  def forward(number: int, _) -> None:
    for process in processes:
      with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, forward)
  failed, code = 0.0, 0
  while any(process.poll() is None for process in processes):
    bad = [process.returncode for process in processes if process.poll()]
    if bad and not failed:
      failed, code = time.monotonic(), bad[0]
    if failed and time.monotonic() - failed > _PATIENCE:
      for process in processes:
        process.kill()
    time.sleep(0.05)
  for thread in shown:
    thread.join()
  code = code or next((p.returncode for p in processes if p.returncode), 0)
  return 128 - code if code < 0 else code


def _show(index: int, process: subprocess.Popen) -> None:
  """Copy the output of a process to stdout, with its index before each line; tell a failure."""
  assert process.stdout
  for line in process.stdout:
    sys.stdout.buffer.write(b'[%d] ' % index + line)
    sys.stdout.buffer.flush()
  if code := process.wait():
    print(f'[{index}] ended with exit code {128 - code if code < 0 else code}', flush=True)


def main() -> None:
  """Parse the arguments and run the processes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--processes', type=int, required=True, help='number of processes; they share the GPUs evenly'
  )
  parser.add_argument('--devices', type=int, default=1, help='CPU devices per process')
  parser.add_argument('--dry-run', action='store_true', help='print the commands and exit')
  parser.add_argument('command', nargs=argparse.REMAINDER, help='-- followed by the command')
  given = parser.parse_args()
  command = given.command[1:] if given.command[:1] == ['--'] else given.command
  cards = gpus()
  if given.processes < 1 or not command:
    parser.error('give --processes of at least 1, then -- and the command')
  if cards and len(cards) % given.processes:
    parser.error(f'{len(cards)} GPUs do not divide among {given.processes} processes')
  flags = os.environ.get('XLA_FLAGS', '')
  places = environments(given.processes, free_port(), given.devices, cards, flags)
  if given.dry_run:
    for place in places:
      print(' '.join(f'{k}={shlex.quote(v)}' for k, v in place.items()), shlex.join(command))
    return
  sys.exit(run(command, places))


if __name__ == '__main__':
  main()
