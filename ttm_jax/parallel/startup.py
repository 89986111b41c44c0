"""How the processes of one job find each other.

Where a process learns its place, in this order:

by hand         TTM_COORDINATOR (host:port of process 0), TTM_PROCESSES, TTM_PROCESS
Kubernetes      the same, with the index of an indexed job (JOB_COMPLETION_INDEX) for TTM_PROCESS
SLURM           what srun sets
TPU on GKE      what GKE sets (TPU_WORKER_HOSTNAMES and others), with several slices too
TPU machines    their metadata server

The processes meet at the coordinator's port before JAX uses it, since JAX does not tell who is
missing. Where the address is one of this machine only (127.0.0.1), so is the port. Who reaches the
port can take part in the job: keep it inside a private network. Besides, processes that are given
the same TTM_TOKEN leave everybody without it alone.
"""

import contextlib
import dataclasses
import functools
import glob
import hmac
import ipaddress
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NoReturn

import jax
import numpy as np
from jax._src import xla_bridge
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ttm_jax.errors import InputError, printable
from ttm_jax.parallel.peers import Peers

_TPU_PORT = 8482
_RETRY = 0.5  # Seconds between two attempts to reach process 0.
_HELLO = 2.0  # Seconds in which one that connects must have said who it is.
_WORD = 300  # Characters of what another process says that are shown.


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
  """The place of a process in its job.

  Attributes:
    address: host:port of process 0.
    count, index: of the processes, and of this one.
    devices: the local devices that are this process's own; None for all.
    token: what all processes of the job know, and nobody else; empty for none.
  """

  address: str
  count: int
  index: int
  devices: tuple[int, ...] | None = None
  token: str = dataclasses.field(default='', repr=False)

  @property
  def bind(self) -> str:
    """The address at which process 0 listens: all of its machine's (''), or the loopback's."""
    host = self.address.rsplit(':', 1)[0].strip('[]')
    if host == 'localhost':
      return '127.0.0.1'
    try:
      return host if ipaddress.ip_address(host).is_loopback else ''
    except ValueError:
      return ''


def find_place(env: Mapping[str, str] = os.environ) -> ProcessInfo | None:
  """The place of this process; None where it is alone.

  Raises:
    InputError: where only a part is told, or the numbers make no sense.
  """
  for find in (_by_hand, _slurm, _tpu_gke, _tpu_machine):
    place = find(env)
    if place is not None:
      token = env.get('TTM_TOKEN', '')
      return dataclasses.replace(place, token=token) if place.count > 1 else None
  return None


def _by_hand(env: Mapping[str, str]) -> ProcessInfo | None:
  names = ('TTM_COORDINATOR', 'TTM_PROCESSES', 'TTM_PROCESS')
  if not any(env.get(name) for name in names):
    return None
  values = [env.get(name) for name in names]
  values[2] = values[2] or env.get('JOB_COMPLETION_INDEX')
  if not all(values):
    missing = [name for name, value in zip(names, values, strict=True) if not value]
    raise InputError(f'a job of several processes also needs {" and ".join(missing)}')
  address, count, index = (value or '' for value in values)
  if not re.fullmatch(r'.+:\d+', address):
    raise InputError(f'TTM_COORDINATOR must be host:port of process 0, got {address!r}')
  if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
    raise InputError(
      f'TTM_PROCESSES={count} must be a number and TTM_PROCESS={index} one from 0 to just below it'
    )
  return ProcessInfo(address, int(count), int(index))


def _slurm(env: Mapping[str, str]) -> ProcessInfo | None:
  # Not those of the allocation: a batch script or a shell in it is no process of a job.
  names = ('JOB_ID', 'STEP_NODELIST', 'STEP_NUM_TASKS', 'STEP_NUM_NODES', 'PROCID', 'LOCALID')
  told = [env.get(f'SLURM_{name}', '') for name in names]
  if not all(told):
    return None
  job, _, count, hosts, index, local = (0 if i == 1 else int(x) for i, x in enumerate(told))
  # A port of its own for each job, as several may share a node.
  address = f'{first_node(told[1])}:{61440 + job % 4096}'
  return ProcessInfo(address, count, index, (local,) if count > hosts else None)


def first_node(nodes: str) -> str:
  """The first name of a SLURM list of nodes: 'gpu[07-09,12],big1' -> 'gpu07'."""
  found = re.match(r'([^,\[]*)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?', nodes)
  assert found
  return f'{found[1]}{found[2] or ""}{found[3] or ""}'


def _tpu_gke(env: Mapping[str, str]) -> ProcessInfo | None:
  hosts = env.get('TPU_PROCESS_ADDRESSES') or env.get('TPU_WORKER_HOSTNAMES')
  if not hosts or 'TPU_WORKER_ID' not in env:
    return None
  return _of_slices(hosts.split(','), int(env['TPU_WORKER_ID']), env)


def _tpu_machine(env: Mapping[str, str]) -> ProcessInfo | None:
  """A TPU machine of Compute Engine, which its metadata server tells about."""
  server = env.get('GCE_METADATA_IP')
  if not server:
    if not (glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')):
      return None
    server = 'metadata.google.internal'

  def ask(key: str) -> str:
    request = urllib.request.Request(
      f'http://{server}/computeMetadata/v1/instance/attributes/{key}',
      headers={'Metadata-Flavor': 'Google'},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
      return answer.read().decode()

  try:
    index = ask('agent-worker-number')
    # Each is a name, or in the older form name:id:address.
    workers = [worker.split(':')[-1] for worker in ask('worker-network-endpoints').split(',')]
    told = dict(re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*)'?\s*$", ask('tpu-env'), re.MULTILINE))
  except (OSError, urllib.error.URLError):
    return None
  return _of_slices(workers, int(index), {**told, **env})


def _of_slices(workers: list[str], index: int, env: Mapping[str, str]) -> ProcessInfo:
  """A worker of a TPU slice, one of several where MEGASCALE_NUM_SLICES says so."""
  slices = int(env.get('MEGASCALE_NUM_SLICES') or 1)
  number = int(env.get('MEGASCALE_SLICE_ID') or 0)
  first = (env.get('MEGASCALE_COORDINATOR_ADDRESS') or workers[0]).split(':')[0]
  each = len(workers)
  return ProcessInfo(f'{first}:{_TPU_PORT}', each * slices, number * each + index)


def initialize(
  start_limit: float = 300.0, peer_limit: float = 60.0, hang_limit: float = 1800.0
) -> Peers:
  """Joins the job that this process belongs to; returns when all of its processes are there.

  Args:
    start_limit: seconds in which all must have come.
    peer_limit, hang_limit: see `Peers`.

  Raises:
    InputError: where somebody is missing after `start_limit` (says who), or two say that they are
      the same process.
  """
  place = find_place()
  if place is None:
    return Peers(limit=peer_limit, hang_limit=hang_limit)
  peers = meet(place, start_limit, peer_limit, hang_limit)
  port = place.address.rsplit(':', 1)[1]
  bind = f'[{place.bind}]' if ':' in place.bind else place.bind
  if bind:
    _collectives_at(place.bind)
  jax.distributed.initialize(
    place.address,
    place.count,
    place.index,
    local_device_ids=place.devices,
    cluster_detection_method='deactivate',
    coordinator_bind_address=f'{bind}:{port}' if bind else None,
    initialization_timeout=int(start_limit) + 1,
    # We tell who is dead before JAX only tells that somebody is.
    heartbeat_timeout_seconds=int(2 * peer_limit) + 40,
    shutdown_timeout_seconds=int(peer_limit) + 1,
  )
  return peers


def meet(place: ProcessInfo, start_limit: float, peer_limit: float, hang_limit: float) -> Peers:
  """All processes of a job, once they are there; see `initialize`."""
  lines = (_gather if place.index == 0 else _come)(place, start_limit)
  for line, _ in lines.values():
    line.settimeout(None)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return Peers(place.index, place.count, lines, peer_limit, hang_limit)


def _collectives_at(host: str) -> None:
  """Have what connects devices on CPUs (Gloo) listen at one address of this machine.

  Otherwise it listens at the address that the machine's name stands for; JAX has no option for it.
  """
  library = xla_bridge._jax
  make = getattr(library, 'make_gloo_tcp_collectives', None)
  if make is not None:
    library.make_gloo_tcp_collectives = functools.partial(make, hostname=host)


def connect(mesh: Mesh) -> None:
  """Opens the lines between devices, group by group, while all processes are at the same place.

  What connects the devices gives the first meeting of a group half a minute only (Gloo, on CPUs).
  Later, one process may compile for longer than the others.
  """
  if jax.process_count() == 1:
    return
  names = mesh.axis_names
  long = tuple(name for name in names if mesh.shape[name] > 1)
  groups = {(name,) for name in long} | {long, tuple(n for n in long if n in ('data', 'fsdp'))}
  everywhere = NamedSharding(mesh, PartitionSpec(names))
  ones = jax.make_array_from_callback(
    (mesh.size,), everywhere, lambda index: np.ones(mesh.size, np.float32)[index]
  )
  for group in sorted(filter(None, groups)):
    add = jax.shard_map(
      lambda x, group=group: jax.lax.psum(x, group),
      mesh=mesh,
      in_specs=PartitionSpec(names),
      out_specs=PartitionSpec(names),
      check_vma=False,
    )
    jax.block_until_ready(jax.jit(add)(ones))


Lines = dict[int, tuple[socket.socket, str]]


def _gather(place: ProcessInfo, limit: float) -> Lines:
  """Process 0: waits for the others at its port."""
  port = int(place.address.rsplit(':', 1)[1])
  end = time.monotonic() + limit
  lines: Lines = {}
  with _listen(place.bind, port, end) as server:
    while len(lines) < place.count - 1:
      left = end - time.monotonic()
      line = None
      if left > 0:
        server.settimeout(left)
        with contextlib.suppress(TimeoutError):
          line, _ = server.accept()
      if line is None:
        missing = sorted(set(range(1, place.count)) - set(lines))
        _refuse(lines, place.token, _missing(missing, place.count, limit))
      hello = _hear(line, min(_HELLO, left))
      if hello is None or not _is_ours(hello, place.token):
        line.close()  # A stranger at the port.
        continue
      index, host = hello['index'], _shown(hello['host'])
      if index in lines and _ended(lines[index][0]):
        del lines[index]  # It was started again.
      lines_now = {**lines, -1: (line, host)}
      if hello.get('count') != place.count:
        _refuse(
          lines_now,
          place.token,
          f'process {index} ({host}) belongs to a job of {hello.get("count")} processes, process 0'
          f' to one of {place.count}: give all the same number',
        )
      if index in lines or not 0 < index < place.count:
        other = f' and on {lines[index][1]}' if index in lines else ''
        _refuse(
          lines_now,
          place.token,
          f'process {index} is there on {host}{other}: each needs a number of its own, from 0 to'
          f' {place.count - 1}',
        )
      lines[index] = (line, host)
  for line, _ in lines.values():
    _tell(line, {'go': socket.gethostname(), 'token': place.token})
  return lines


def _come(place: ProcessInfo, limit: float) -> Lines:
  """Any other process: reports to process 0, and waits until all are there."""
  host, port = place.address.rsplit(':', 1)
  begin = time.monotonic()
  reason = ''
  while time.monotonic() - begin < limit:
    try:
      line = socket.create_connection((host.strip('[]'), int(port)), timeout=5.0)
    except OSError as error:
      reason = (error.strerror or str(error)).lower()
      time.sleep(_RETRY)
      continue
    hello = {'index': place.index, 'count': place.count, 'host': socket.gethostname()}
    _tell(line, hello | {'token': place.token})
    # Process 0 may have come later than this one; it knows who is missing.
    answer = _hear(line, limit + 10)
    if answer and _knows(answer, place.token):
      if 'no' in answer:
        raise InputError(_shown(answer['no']))
      if 'go' in answer:
        return {0: (line, _shown(answer['go']))}
    line.close()
    reason = 'what answers there is not process 0 of this job, or another job uses the port'
    time.sleep(_RETRY)
  raise InputError(
    f'process 0 at {place.address} is missing: process {place.index} could not reach it within'
    f' {limit:g} seconds ({reason}); see whether it started, and whether names and ports of that'
    ' host can be reached from here'
  )


def _missing(missing: list[int], count: int, limit: float) -> str:
  named = ', '.join(map(str, missing[:20])) + (', ...' if len(missing) > 20 else '')
  return (
    f'process {named} of {count} {"is" if len(missing) == 1 else "are"} missing: not come within'
    f' {limit:g} seconds; see whether it started and can reach process 0 on'
    f' {socket.gethostname()}, or raise --config.job.start_limit'
  )


@contextlib.contextmanager
def _listen(host: str, port: int, end: float) -> Iterator[socket.socket]:
  """A server socket; a port that the last job has just left may take a while to be free."""
  both = not host and socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both or ':' in host else socket.AF_INET
  while True:
    try:
      server = socket.create_server((host, port), family=family, dualstack_ipv6=both)
      break
    except OSError as error:
      if time.monotonic() > end:
        raise InputError(
          f'process 0 cannot listen at port {port} ({(error.strerror or "").lower()}): another job'
          ' uses it, or give another one in TTM_COORDINATOR'
        ) from error
      time.sleep(_RETRY)
  with server:
    yield server


def _is_ours(hello: dict, token: str) -> bool:
  """Tell whether a greeting is of a process of a job, of this one where that has a token."""
  numbers = all(type(hello.get(name)) is int for name in ('index', 'count'))
  return numbers and isinstance(hello.get('host'), str) and _knows(hello, token)


def _knows(message: dict, token: str) -> bool:
  return hmac.compare_digest(str(message.get('token', '')).encode(), token.encode())


def _shown(text: object) -> str:
  """What another process says, in one line without control characters, and not too long."""
  return ' '.join(printable(text).split())[:_WORD]


def _refuse(lines: Lines, token: str, sentence: str) -> NoReturn:
  for line, _ in lines.values():
    _tell(line, {'no': sentence, 'token': token})
  raise InputError(sentence)


def _ended(line: socket.socket) -> bool:
  """Whether the other side is gone."""
  line.settimeout(0.01)
  try:
    return line.recv(1, socket.MSG_PEEK) == b''
  except TimeoutError:
    return False
  except OSError:
    return True


def _tell(line: socket.socket, message: dict) -> None:
  with contextlib.suppress(OSError):
    line.sendall(json.dumps(message).encode() + b'\n')


def _hear(line: socket.socket, limit: float) -> dict | None:
  """One message; None where none comes in time. Reads no further than its end."""
  end, data = time.monotonic() + limit, b''
  try:
    while not data.endswith(b'\n') and len(data) < 4096:
      if (left := end - time.monotonic()) <= 0:
        return None
      line.settimeout(left)
      byte = line.recv(1)
      if not byte:
        return None
      data += byte
    message = json.loads(data)
  except (OSError, ValueError, RecursionError):
    return None
  return message if isinstance(message, dict) else None
