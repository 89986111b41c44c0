"""The processes of a job: how they join, and how all exit if one is missing, dies or hangs."""

import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from launch.local import environments, free_port
from tests.helpers import cli
from ttm_jax.errors import InputError
from ttm_jax.parallel import startup
from ttm_jax.parallel.startup import ProcessInfo, find_place, first_node

START, PEER, HANG = 60.0, 20.0, 600.0  # Seconds; generous, since test machines are busy.


def job(count, what='', who=-1, start=START, peer=PEER, hang=HANG, present=None):
  """Start processes 0 to `count` - 1, or those that are `present`."""
  places = environments(count, free_port())
  return [
    cli.start('tests.helpers.peer', what or 'nothing', who, start, peer, hang, env=places[i])
    for i in (range(count) if present is None else present)
  ]


def last_line(ended: cli.Ended) -> str:
  return ended.err.strip().splitlines()[-1]


def test_a_job_that_nothing_disturbs():
  for ended in [process.wait() for process in job(3)]:
    assert (ended.code, ended.out, ended.err) == (0, '[0, 10, 20]\n', '')


@pytest.mark.parametrize('who', [0, 1])
def test_a_killed_process_ends_all_at_once(who):
  begin = time.monotonic()
  ended = [process.wait() for process in job(3, 'die', who)]
  assert time.monotonic() - begin < START + PEER
  for i, one in enumerate(ended):
    if i != who:
      assert one.code == 4
      assert last_line(one) == (
        f'error: process {who} ({socket.gethostname()}) is gone: it was killed or crashed; the same'
        ' command continues the run'
      )


@pytest.mark.parametrize('who', [0, 1])
def test_a_silent_process_ends_all_within_the_limit(who):
  processes = job(3, 'freeze', who, peer=6.0)
  others = [process for i, process in enumerate(processes) if i != who]
  for ended in [process.wait() for process in others]:
    assert ended.code == 4
    assert f'process {who} ({socket.gethostname()}) has given no sign of life for 6 s' in ended.err
  os.kill(processes[who].pid, signal.SIGKILL)
  assert processes[who].wait().code == -signal.SIGKILL


@pytest.mark.parametrize('who', [0, 2])
def test_an_error_of_one_is_told_by_all(who):
  for i, ended in enumerate([process.wait() for process in job(3, 'fail', who)]):
    begun = '' if i == who else f'process {who}: '
    assert (ended.code, ended.err) == (2, f'error: {begun}the disk is full\n')


def test_a_bug_shows_where_it_is():
  ended = [process.wait() for process in job(2, 'raise', 1, peer=2.0)]
  assert [one.code for one in ended] == [1, 1]
  assert ended[0].err == 'error: process 1: a bug\n'
  assert 'Traceback' in ended[1].err and 'tests/helpers/peer.py' in ended[1].err


def test_one_that_hangs_is_named():
  for ended in [process.wait() for process in job(3, 'hang', 1, hang=5.0)]:
    assert ended.code == 4
    assert (
      f'nothing has gone on for 5 seconds; least far is process 1 ({socket.gethostname()}):'
      ' reading a disk that does not answer'
    ) in ended.err


def test_one_that_comes_too_late_is_named():
  for ended in [process.wait() for process in job(3, 'dawdle', 2)]:
    assert ended.code == 4
    assert (
      f'process 2 ({socket.gethostname()}) did not come to "step 0" within 2 seconds:' in ended.err
    )


def test_who_is_missing_at_the_start():
  for ended in [process.wait() for process in job(4, start=4.0, present=[0, 2])]:
    assert ended.code == 2
    assert ended.err.startswith('error: process 1, 3 of 4 are missing: not come within 4 seconds')


def test_process_0_is_missing():
  (ended,) = [process.wait() for process in job(2, start=3.0, present=[1])]
  assert ended.code == 2
  assert ended.err.startswith('error: process 0 at 127.0.0.1:')
  assert 'is missing: process 1 could not reach it within 3 seconds (connection refused)' in (
    ended.err
  )


def test_a_name_that_nobody_knows():
  with pytest.raises(InputError, match=r'process 0 at nowhere\.invalid:1 is missing.*name'):
    startup.meet(ProcessInfo('nowhere.invalid:1', 2, 1), 1.0, 1.0, 1.0)


def test_two_with_one_number():
  ended = [process.wait() for process in job(3, start=20.0, present=[0, 1, 1])]
  assert [one.code for one in ended] == [2, 2, 2]
  host = socket.gethostname()
  assert f'process 1 is there on {host} and on {host}: each needs a number' in ended[0].err


def test_another_number_of_processes():
  port = free_port()
  processes = [
    cli.start('tests.helpers.peer', 'nothing', -1, 20.0, PEER, HANG, env=environments(n, port)[i])
    for n, i in ((2, 0), (3, 1))
  ]
  for ended in [process.wait() for process in processes]:
    assert ended.code == 2
    assert 'belongs to a job of 3 processes, process 0 to one of 2' in ended.err


def test_a_port_in_use():
  with socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    port = server.getsockname()[1]
    with pytest.raises(InputError, match=rf'cannot listen at port {port} .*address already in use'):
      startup.meet(ProcessInfo(f'127.0.0.1:{port}', 2, 0), 1.0, 1.0, 1.0)


# Sources of a process's place.


HAND = {'TTM_COORDINATOR': 'a:1', 'TTM_PROCESSES': '4'}
SLURM = {
  'SLURM_JOB_ID': '70001',
  'SLURM_STEP_NODELIST': 'gpu[07-09,12]',
  'SLURM_STEP_NUM_TASKS': '8',
  'SLURM_STEP_NUM_NODES': '4',
  'SLURM_PROCID': '5',
  'SLURM_LOCALID': '1',
}
GKE = {'TPU_WORKER_HOSTNAMES': 'a-0.s,a-1.s', 'TPU_WORKER_ID': '1'}
SLICES = {
  'MEGASCALE_NUM_SLICES': '2',
  'MEGASCALE_SLICE_ID': '1',
  'MEGASCALE_COORDINATOR_ADDRESS': 'a-0-0.s:8080',
}


@pytest.mark.parametrize(
  'env, place',
  [
    ({}, None),
    (HAND | {'TTM_PROCESS': '3'}, ProcessInfo('a:1', 4, 3)),
    (HAND | {'JOB_COMPLETION_INDEX': '2'}, ProcessInfo('a:1', 4, 2)),
    ({'JOB_COMPLETION_INDEX': '2'}, None),
    (SLURM, ProcessInfo(f'gpu07:{61440 + 70001 % 4096}', 8, 5, (1,))),
    (SLURM | {'SLURM_STEP_NUM_TASKS': '4'}, ProcessInfo(f'gpu07:{61440 + 70001 % 4096}', 4, 5)),
    (SLURM | {'SLURM_STEP_NUM_TASKS': '1'}, None),
    ({k: v for k, v in SLURM.items() if 'STEP' not in k}, None),
    (SLURM | HAND | {'TTM_PROCESS': '0'}, ProcessInfo('a:1', 4, 0)),
    (GKE, ProcessInfo('a-0.s:8482', 2, 1)),
    (GKE | SLICES, ProcessInfo('a-0-0.s:8482', 4, 3)),
    ({'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}, None),
  ],
)
def test_places(env, place):
  assert find_place(env) == place


def test_nodes():
  found = [first_node(x) for x in ('a', 'a,b', 'n[1-3]', 'n[01,03-05],m2', 'n[01-02]-ib,x')]
  assert found == ['a', 'a', 'n1', 'n01', 'n01-ib']


def test_a_tpu_machine():
  told = {
    'agent-worker-number': '1',
    'worker-network-endpoints': 'x:y:10.0.0.1,x:y:10.0.0.2',
    'tpu-env': "ZONE: 'somewhere'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.0.1.1'\n",
  }

  class Metadata(BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      text = told.get(self.path.rpartition('/')[2])
      self.send_response(404 if text is None else 200)
      self.end_headers()
      self.wfile.write((text or '').encode())

    def log_message(self, *_):
      pass

  with HTTPServer(('127.0.0.1', 0), Metadata) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {'GCE_METADATA_IP': f'127.0.0.1:{server.server_port}'}
    assert find_place(env) == ProcessInfo('10.0.1.1:8482', 4, 3)
    told['tpu-env'] = "ZONE: 'somewhere'\n"
    assert find_place(env) == ProcessInfo('10.0.0.1:8482', 2, 1)
    del told['agent-worker-number']  # Another kind of machine.
    assert find_place(env) is None
    server.shutdown()


@pytest.mark.parametrize(
  'env, said',
  [
    ({'TTM_COORDINATOR': 'a:1'}, 'also needs TTM_PROCESSES and TTM_PROCESS'),
    (HAND | {'TTM_PROCESS': '4'}, 'TTM_PROCESS=4 one from 0 to just below it'),
    (HAND | {'TTM_PROCESS': '1', 'TTM_COORDINATOR': 'a'}, "host:port of process 0, got 'a'"),
  ],
)
def test_places_that_make_no_sense(env, said):
  with pytest.raises(InputError, match=said):
    find_place(env)
