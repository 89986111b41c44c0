"""The processes of a job: how they join, and how all exit if one is missing, dies or hangs."""

import contextlib
import os
import signal
import socket
import time

import pytest
from jax._src.clusters import cloud_tpu_cluster

from launch.local import environments, free_port
from tests.helpers import cli
from ttm_jax.errors import InputError
from ttm_jax.parallel import startup
from ttm_jax.parallel.startup import Place, find_place

START, PEER, HANG = 60.0, 20.0, 600.0  # Seconds; generous, since test machines are busy.


def job(count, what='', who=-1, start=START, peer=PEER, hang=HANG, present=None):
  """Start processes 0 to `count` - 1, or those that are `present`."""
  places = environments(count, free_port())
  return [
    cli.start('tests.helpers.peer', what or 'nothing', who, start, peer, hang, env=places[i])
    for i in (range(count) if present is None else present)
  ]


def test_a_job_that_nothing_disturbs():
  for ended in [process.wait() for process in job(3)]:
    assert (ended.code, ended.out, ended.err) == (0, '[0, 10, 20]\n', '')


@pytest.mark.parametrize(
  'what, who, named',
  [('die', 1, 'stopped sending heartbeats):\n1\n'), ('freeze', 1, '1\n'), ('die', 0, 'task 0')],
)
def test_a_lost_process_ends_all_within_the_limit(what, who, named):
  processes = job(3, what, who, peer=3.0)
  begin = time.monotonic()
  for ended in [process.wait() for i, process in enumerate(processes) if i != who]:
    assert ended.code == -signal.SIGABRT and named in ended.err
  assert time.monotonic() - begin < 20
  with contextlib.suppress(ProcessLookupError):
    os.kill(processes[who].pid, signal.SIGKILL)
  assert processes[who].wait().code == -signal.SIGKILL


@pytest.mark.parametrize('who', [0, 2, 'all'])
def test_an_error_of_one_is_told_by_all(who):
  for i, ended in enumerate([process.wait() for process in job(3, 'fail', who)]):
    begun = '' if who in (i, 'all') else f'process {who}: '
    assert (ended.code, ended.err) == (2, f'error: {begun}the disk is \\x1b[2J full\n')


def test_a_bug_shows_where_it_is():
  ended = [process.wait() for process in job(2, 'raise', 1)]
  assert [one.code for one in ended] == [1, 1]
  assert ended[0].err == 'error: process 1: a bug\n'
  assert 'Traceback' in ended[1].err and 'tests/helpers/peer.py' in ended[1].err


def test_one_that_hangs_shows_where_it_does():
  ended = [process.wait() for process in job(2, 'hang', 1, peer=2.0, hang=3.0)]
  assert ended[1].code == 1 and ended[0].code in (1, -signal.SIGABRT)
  assert ended[1].err.startswith('Timeout (0:00:03)!') and 'in disturb' in ended[1].err


def test_a_process_that_never_starts_ends_the_others():
  present = [0, 2]
  processes = job(4, start=3.0, present=present)
  for who, ended in zip(present, [process.wait() for process in processes], strict=True):
    assert ended.code == 2
    assert f'process {who} started, but not all 4 processes reached 127.0.0.1:' in ended.err
    assert ended.err.endswith(' or raise --config.job.start_limit\n')


def test_a_port_in_use():
  with socket.create_server(('127.0.0.1', 0)) as server:
    places = environments(2, server.getsockname()[1])
    ended = cli.run('tests.helpers.peer', 'nothing', -1, START, PEER, HANG, env=places[0])
  assert ended.code == 2
  assert ended.err.startswith('error: process 0 cannot listen at port ')
  assert '(address already in use): wait for the job that uses it' in ended.err


# Sources of a process's place.


HAND = {'TTM_COORDINATOR': 'a:1', 'TTM_PROCESSES': '4'}
SLURM = {
  'SLURM_JOB_ID': '70001',
  'SLURM_STEP_NODELIST': 'gpu[07-09,12]',
  'SLURM_STEP_NUM_TASKS': '8',
  'SLURM_NTASKS': '8',
  'SLURM_STEP_NUM_NODES': '4',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '1',
}
EACH = {'SLURM_STEP_NUM_TASKS': '4', 'SLURM_NTASKS': '4', 'SLURM_LOCALID': '0'}
GKE = {'TPU_WORKER_HOSTNAMES': 'localhost,a-1.s', 'TPU_WORKER_ID': '1'}
SLICES = {
  'MEGASCALE_NUM_SLICES': '2',
  'MEGASCALE_SLICE_ID': '1',
  'MEGASCALE_COORDINATOR_ADDRESS': '127.0.0.1:8080',
}
NO_SLICES = dict.fromkeys(SLICES, '')


@pytest.fixture
def given(monkeypatch):
  """Set environment variables."""
  monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  return lambda env: [monkeypatch.setenv(*item) for item in env.items()]


@pytest.mark.parametrize(
  'env, place',
  [
    ({}, None),
    (HAND | {'TTM_PROCESS': '3'}, Place('a:1', 4, 3)),
    (HAND | {'JOB_COMPLETION_INDEX': '2'}, Place('a:1', 4, 2)),
    ({'JOB_COMPLETION_INDEX': '2'}, None),
    ({'TTM_PROCESSES': '1'}, None),
    # A process per GPU, and a process per node with all of its GPUs.
    (SLURM, Place(f'gpu07:{61440 + 70001 % 4096}', 8, 3, [1])),
    (SLURM | EACH, Place(f'gpu07:{61440 + 70001 % 4096}', 4, 3, [])),
    (SLURM | EACH | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '1'}, None),
    ({k: v for k, v in SLURM.items() if 'STEP' not in k}, None),
    (SLURM | HAND | {'TTM_PROCESS': '0'}, Place('a:1', 4, 0)),
    (GKE | NO_SLICES, Place('localhost:8482', 2, 1)),
    (GKE | SLICES, Place('127.0.0.1:8482', 4, 3)),
  ],
)
def test_places(given, env, place):
  given(env)
  assert find_place() == place


@pytest.mark.parametrize(
  'env, said',
  [
    ({'TTM_COORDINATOR': 'a:1'}, 'also needs TTM_PROCESSES and TTM_PROCESS'),
    (HAND | {'TTM_PROCESS': '4'}, 'TTM_PROCESS=4 one from 0 to just below it'),
    (HAND | {'TTM_PROCESS': '1', 'TTM_COORDINATOR': 'a'}, "host:port of process 0, got 'a'"),
    (
      SLURM | {'SLURM_JOB_ID': 'x'},
      r'other processes of this job \(invalid',
    ),
  ],
)
def test_places_that_make_no_sense(given, env, said):
  given(env)
  with pytest.raises(InputError, match=said):
    find_place()


@pytest.mark.parametrize(
  'address, loopback',
  [
    ('127.0.0.1:1', True),
    ('127.1.2.3:1', True),
    ('localhost:1', True),
    ('[::1]:1', True),
    ('10.0.0.1:1', False),
    ('gpu01:1', False),
    ('127.0.0.1.example.com:1', False),
  ],
)
def test_a_job_of_one_machine_listens_at_loopback_only(given, monkeypatch, address, loopback):
  library, asked = startup.xla_bridge._jax, []
  monkeypatch.setattr(library, 'make_gloo_tcp_collectives', lambda **more: asked.append(more))
  monkeypatch.setattr(startup.jax.distributed, 'initialize', lambda *_, **more: asked.append(more))
  given({'TTM_COORDINATOR': address, 'TTM_PROCESSES': '2', 'TTM_PROCESS': '0'})
  monkeypatch.setattr(startup, '_check_port', lambda *_: None)
  startup.initialize()
  library.make_gloo_tcp_collectives(distributed_client='client')
  assert asked[0]['coordinator_bind_address'] == (address if loopback else None)
  host = {'hostname': address.rsplit(':', 1)[0].strip('[]')} if loopback else {}
  assert asked[1] == {'distributed_client': 'client', **host}
