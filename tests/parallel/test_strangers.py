"""Foreign connections to a job's ports: none from other machines, and local ones do no harm."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from launch.local import environments, free_port
from tests.helpers import cli, sockets, tiny
from ttm_jax.errors import InputError
from ttm_jax.parallel import startup
from ttm_jax.parallel.startup import ProcessInfo, find_place

PEER, HANG = 20.0, 600.0
TOKEN = 'a secret of this job'


def job(count, port, start=60.0, present=None, token=TOKEN):
  places = environments(count, port, token=token)
  return [
    cli.start('tests.helpers.peer', 'nothing', -1, start, PEER, HANG, env=places[i])
    for i in (range(count) if present is None else present)
  ]


def reach(port: int) -> socket.socket:
  """Connect to a port as soon as something listens there."""
  end = time.monotonic() + 60
  while True:
    try:
      return socket.create_connection(('127.0.0.1', port), timeout=5)
    except OSError:
      assert time.monotonic() < end
      time.sleep(0.05)


MESSAGES = {
  'another number of processes': {'index': 1, 'count': 7, 'host': 'x'},
  'a number of a process': {'index': 1, 'count': 2, 'host': 'x'},
  'a number beyond': {'index': 99, 'count': 2, 'host': 'x'},
  'process 0': {'index': 0, 'count': 2, 'host': 'x'},
  'a wrong token': {'index': 1, 'count': 2, 'host': 'x', 'token': 'guess'},
  'a token that is no text': {'index': 1, 'count': 2, 'host': 'x', 'token': [TOKEN]},
  'no number': {'index': True, 'count': 2, 'host': 'x', 'token': TOKEN},
  'no name': {'index': 1, 'count': 2, 'host': ['\x1b[2J'], 'token': TOKEN},
}


def test_strangers_neither_end_a_job_nor_take_a_place():
  port = free_port()
  first = job(2, port, present=[0])
  sent = [json.dumps(m).encode() + b'\n' for m in MESSAGES.values()]
  sent += [b'\x1b[2J\xff\n', b'[' * 4000 + b'\n', b'GET / HTTP/1.1\r\n\r\n', b'', b'null\n', b'5\n']
  with contextlib.ExitStack() as closing:
    for data in sent:
      line = closing.enter_context(reach(port))
      with contextlib.suppress(OSError):
        line.sendall(data)
      if not data:
        line.close()
    others = job(2, port, present=[1])
    for ended in [process.wait() for process in first + others]:
      assert (ended.code, ended.out, ended.err) == (0, '[0, 10]\n', '')


def test_strangers_do_not_stretch_the_limit():
  """A silent connection arrives every quarter of a second."""
  port, stop = free_port(), threading.Event()
  (process,) = job(2, port, start=6.0, present=[0])
  held = []

  def knock():
    while not stop.wait(0.25):
      with contextlib.suppress(OSError):
        held.append(socket.create_connection(('127.0.0.1', port), timeout=1))

  reach(port).close()
  begin = time.monotonic()
  thread = threading.Thread(target=knock)
  thread.start()
  ended = process.wait()
  took = time.monotonic() - begin
  stop.set()
  thread.join()
  for line in held:
    line.close()
  assert ended.code == 2 and 'process 1 of 2 is missing: not come within 6 seconds' in ended.err
  assert took < 10


def test_one_that_sends_a_byte_at_a_time_does_not_stretch_the_limit():
  ours, theirs = socket.socketpair()
  stop = threading.Event()

  def drip():
    while not stop.wait(0.05):
      with contextlib.suppress(OSError):
        theirs.send(b' ')

  thread = threading.Thread(target=drip)
  thread.start()
  begin = time.monotonic()
  assert startup._hear(ours, 0.5) is None
  assert time.monotonic() - begin < 2
  stop.set()
  thread.join()
  ours.close()
  theirs.close()


def test_what_a_process_calls_itself_is_escaped_and_in_one_line():
  port = free_port()
  first, second = job(3, port, present=[0, 1], token='')
  hello = {'index': 1, 'count': 3, 'host': 'x\x1b[2J\nerror: all is well' + 'y' * 1000}
  with reach(port) as line:
    line.sendall(json.dumps(hello).encode() + b'\n')
    ended = [process.wait() for process in (first, second)]
  told = [one.err for one in ended if 'process 1 is there' in one.err]
  assert told
  for text in told:
    assert '\x1b' not in text and text.count('\n') == 1 and 'x\\x1b[2J error: all is well' in text
    assert len(text) < 1000


@pytest.mark.parametrize('answer', [{'no': '\x1b[2Jgo\naway'}, {'go': 'me'}])
def test_what_answers_without_the_token_is_not_process_0(answer):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]

    def serve():
      with contextlib.suppress(OSError):
        while True:
          line, _ = server.accept()
          line.recv(1000)
          line.sendall(json.dumps(answer).encode() + b'\n')
          line.close()

    threading.Thread(target=serve, daemon=True).start()
    with pytest.raises(InputError, match='what answers there is not process 0') as caught:
      startup.meet(ProcessInfo(f'127.0.0.1:{port}', 2, 1, token=TOKEN), 1.0, 1.0, 1.0)
    assert '\x1b' not in str(caught.value)


def test_a_refusal_is_shown_in_one_line():
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]

    def serve():
      line, _ = server.accept()
      line.recv(1000)
      line.sendall(json.dumps({'no': 'a\x1b[2J\nb'}).encode() + b'\n')

    threading.Thread(target=serve, daemon=True).start()
    with pytest.raises(InputError) as caught:
      startup.meet(ProcessInfo(f'127.0.0.1:{port}', 2, 1), 5.0, 1.0, 1.0)
    assert str(caught.value) == 'a\\x1b[2J b'


@pytest.mark.parametrize(
  'address, bind',
  [
    ('127.0.0.1:1', '127.0.0.1'),
    ('127.1.2.3:1', '127.1.2.3'),
    ('localhost:1', '127.0.0.1'),
    ('[::1]:1', '::1'),
    ('10.0.0.1:1', ''),
    ('gpu01:1', ''),
    ('127.0.0.1.example.com:1', ''),
  ],
)
def test_where_process_0_listens(address, bind):
  assert ProcessInfo(address, 2, 0).bind == bind


def test_the_token_is_read_and_not_shown():
  env = {'TTM_COORDINATOR': 'a:1', 'TTM_PROCESSES': '2', 'TTM_PROCESS': '1', 'TTM_TOKEN': TOKEN}
  place = find_place(env)
  assert place == ProcessInfo('a:1', 2, 1, token=TOKEN) and TOKEN not in repr(place)


def test_collectives_listen_at_the_address_of_the_job(monkeypatch):
  library, asked = startup.xla_bridge._jax, []
  monkeypatch.setattr(library, 'make_gloo_tcp_collectives', lambda **more: asked.append(more))
  startup._collectives_at('127.0.0.1')
  library.make_gloo_tcp_collectives(distributed_client='client')
  assert asked == [{'distributed_client': 'client', 'hostname': '127.0.0.1'}]


# Listening sockets of the commands.


def seen_while(process: subprocess.Popen) -> set[tuple[str, int]]:
  """Return all sockets at which a process tree listens before its end."""
  found: set[tuple[str, int]] = set()
  end = time.monotonic() + 240
  while process.poll() is None:
    assert time.monotonic() < end
    found |= sockets.listening(process.pid)
    time.sleep(0.02)
  return found


def test_training_alone_listens_nowhere(latents, tmp_path):
  command = cli.command(
    *tiny.train_command('demo_stage1', tmp_path / 'run', latents, train__checkpoint_every=2)
  )
  process = subprocess.Popen(command, cwd=cli.ROOT, stderr=subprocess.DEVNULL)
  assert seen_while(process) == set()
  assert process.returncode == 0


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
