"""The ports that training opens: none alone, and only on the loopback address on one machine."""

import os
import socket
import subprocess
import sys
import time

import pytest

from tests.helpers import cli, sockets, tiny


def seen_while(process: subprocess.Popen) -> set[tuple[str, int]]:
  """Return all sockets at which a process tree listens before its end."""
  found: set[tuple[str, int]] = set()
  end = time.monotonic() + 240
  while process.poll() is None:
    assert time.monotonic() < end
    found |= sockets.listening(process.pid)
    time.sleep(0.02)
  return found


@pytest.mark.slow
def test_training_alone_listens_nowhere(latents, tmp_path):
  command = cli.command(
    *tiny.train_command('demo_stage1', tmp_path / 'run', latents, train__checkpoint_every=2)
  )
  process = subprocess.Popen(command, cwd=cli.ROOT, stderr=subprocess.DEVNULL)
  assert seen_while(process) == set()
  assert process.returncode == 0


@pytest.mark.slow
def test_a_job_of_this_machine_listens_at_loopback_only(latents, tmp_path):
  command = tiny.train_command('demo_stage1', tmp_path / 'run', latents, train__checkpoint_every=2)
  process = subprocess.Popen(
    [sys.executable, '-m', 'launch.local', '--processes=2', '--', *cli.command(*command)],
    cwd=cli.ROOT,
    env=os.environ,
    stdout=subprocess.DEVNULL,
  )
  found = seen_while(process)
  assert process.returncode == 0
  assert found and all(sockets.is_loopback(address) for address, _ in found), found


def test_a_socket_is_seen():
  with socket.create_server(('127.0.0.1', 0)) as server, socket.create_server(('', 0)) as wide:
    found = sockets.listening(os.getpid())
    assert ('127.0.0.1', server.getsockname()[1]) in found
    assert ('0.0.0.0', wide.getsockname()[1]) in found
  assert sockets.is_loopback('::ffff:127.0.0.1') and not sockets.is_loopback('::')
