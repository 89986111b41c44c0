"""Discovery and startup of the processes of a job.

Each process determines its index, the number of processes and the address of process 0 from the
first source that applies:

manual          TTM_COORDINATOR (host:port of process 0), TTM_PROCESSES, TTM_PROCESS
Kubernetes      the same, with JOB_COMPLETION_INDEX of an indexed job instead of TTM_PROCESS
SLURM           the variables set by srun
TPU on GKE      the variables set by GKE (TPU_WORKER_HOSTNAMES and others), also for several slices
TPU VMs         the metadata server

The processes first connect to the coordinator's port themselves, before JAX uses it, because JAX
does not report which process is missing. If the coordinator's address is a loopback address
(127.0.0.1), process 0 listens on that address only.

Anyone who can reach the port can join the job, so keep it inside a private network. If TTM_TOKEN is
set, processes also reject connections without the same token.
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
_HELLO = 2.0  # Seconds in which a new connection must send its first message.
_WORD = 300  # Maximum characters shown of text received from another process.


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
  """The identity of a process in its job.

  Attributes:
    address: host:port of process 0.
    count: number of processes.
    index: index of this process.
    devices: ids of the local devices that this process uses; None for all.
    token: a secret shared by the processes of the job; empty for none.
  """

  address: str
  count: int
  index: int
  devices: tuple[int, ...] | None = None
  token: str = dataclasses.field(default='', repr=False)

  @property
  def bind(self) -> str:
    """The address on which process 0 listens: all interfaces (''), or a loopback address."""
    host = self.address.rsplit(':', 1)[0].strip('[]')
    if host == 'localhost':
      return '127.0.0.1'
    try:
      return host if ipaddress.ip_address(host).is_loopback else ''
    except ValueError:
      return ''


def find_place(env: Mapping[str, str] = os.environ) -> ProcessInfo | None:
  """Determine the identity of this process from its environment.

  Args:
    env: environment variables.

  Returns:
    The identity, or None if the job has only one process.

  Raises:
    InputError: if variables are missing or inconsistent.
  """
  for find in (_by_hand, _slurm, _tpu_gke, _tpu_machine):
    place = find(env)
    if place is not None:
      token = env.get('TTM_TOKEN', '')
      return dataclasses.replace(place, token=token) if place.count > 1 else None
  return None


def _by_hand(env: Mapping[str, str]) -> ProcessInfo | None:
  """Read the identity from TTM_* variables, or JOB_COMPLETION_INDEX for the index."""
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
  """Read the identity of a process of a SLURM step; with several per node, one GPU each."""
  # The variables of a step, not those of the allocation, which batch scripts have too.
  names = ('JOB_ID', 'STEP_NODELIST', 'STEP_NUM_TASKS', 'STEP_NUM_NODES', 'PROCID', 'LOCALID')
  told = [env.get(f'SLURM_{name}', '') for name in names]
  if not all(told):
    return None
  job, _, count, hosts, index, local = (0 if i == 1 else int(x) for i, x in enumerate(told))
  # Derived from the job id, because several jobs may share a node.
  address = f'{first_node(told[1])}:{61440 + job % 4096}'
  return ProcessInfo(address, count, index, (local,) if count > hosts else None)


def first_node(nodes: str) -> str:
  """Return the first name of a SLURM node list: 'gpu[07-09,12],big1' -> 'gpu07'."""
  found = re.match(r'([^,\[]*)(?:\[([^,\-\]]+)[^\]]*\]([^,]*))?', nodes)
  assert found
  return f'{found[1]}{found[2] or ""}{found[3] or ""}'


def _tpu_gke(env: Mapping[str, str]) -> ProcessInfo | None:
  """Read the identity of a TPU worker from the variables set by GKE."""
  hosts = env.get('TPU_PROCESS_ADDRESSES') or env.get('TPU_WORKER_HOSTNAMES')
  if not hosts or 'TPU_WORKER_ID' not in env:
    return None
  return _of_slices(hosts.split(','), int(env['TPU_WORKER_ID']), env)


def _tpu_machine(env: Mapping[str, str]) -> ProcessInfo | None:
  """Read the identity of a Compute Engine TPU VM from its metadata server."""
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
    # Each endpoint is a name or, in the older format, name:id:address.
    workers = [worker.split(':')[-1] for worker in ask('worker-network-endpoints').split(',')]
    told = dict(re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*)'?\s*$", ask('tpu-env'), re.MULTILINE))
  except (OSError, urllib.error.URLError):
    return None
  return _of_slices(workers, int(index), {**told, **env})


def _of_slices(workers: list[str], index: int, env: Mapping[str, str]) -> ProcessInfo:
  """Return the identity of a TPU worker; with several slices, as MEGASCALE_NUM_SLICES says.

  Args:
    workers: host names of the slice.
    index: index of this worker in its slice.
    env: environment variables.
  """
  slices = int(env.get('MEGASCALE_NUM_SLICES') or 1)
  number = int(env.get('MEGASCALE_SLICE_ID') or 0)
  first = (env.get('MEGASCALE_COORDINATOR_ADDRESS') or workers[0]).split(':')[0]
  each = len(workers)
  return ProcessInfo(f'{first}:{_TPU_PORT}', each * slices, number * each + index)


def initialize(
  start_limit: float = 300.0, peer_limit: float = 60.0, hang_limit: float = 1800.0
) -> Peers:
  """Join the job that this process belongs to, and initialize JAX for it.

  Return when all processes have joined.

  Args:
    start_limit: seconds in which all processes must join.
    peer_limit: seconds without a heartbeat after which a process is considered dead.
    hang_limit: seconds without progress after which the job is ended.

  Returns:
    The connections to the other processes.

  Raises:
    InputError: if a process fails to join within `start_limit` (the message names it), or two
      processes have the same index.
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
    # Longer than our own limits: our error message names the lost process, that of JAX does not.
    heartbeat_timeout_seconds=int(2 * peer_limit) + 40,
    shutdown_timeout_seconds=int(peer_limit) + 1,
  )
  return peers


def meet(place: ProcessInfo, start_limit: float, peer_limit: float, hang_limit: float) -> Peers:
  """Connect the processes of a job without initializing JAX; see `initialize`."""
  lines = (_gather if place.index == 0 else _come)(place, start_limit)
  for line, _ in lines.values():
    line.settimeout(None)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return Peers(place.index, place.count, lines, peer_limit, hang_limit)


def _collectives_at(host: str) -> None:
  """Make Gloo, the collectives library for CPU devices, listen on one address of this machine.

  By default it listens on the address that the host name resolves to; JAX has no option for it.
  """
  library = xla_bridge._jax
  make = getattr(library, 'make_gloo_tcp_collectives', None)
  if make is not None:
    library.make_gloo_tcp_collectives = functools.partial(make, hostname=host)


def connect(mesh: Mesh) -> None:
  """Open the connections between devices by a small all-reduce over each group of mesh axes.

  Call it while all processes are at the same point. Gloo (CPU devices) allows only 30 seconds for
  the first collective of a group, and later one process may compile for longer than the others.
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


Lines = dict[int, tuple[socket.socket, str]]  # Connection and host name by process index.


def _gather(place: ProcessInfo, limit: float) -> Lines:
  """Wait in process 0 until all other processes have connected.

  Raises:
    InputError: if a process does not connect in time, or reports a wrong count or index.
  """
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
        line.close()  # Not a process of this job.
        continue
      index, host = hello['index'], _shown(hello['host'])
      if index in lines and _ended(lines[index][0]):
        del lines[index]  # That process was restarted.
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
  """Connect to process 0 and wait until all processes have joined.

  Raises:
    InputError: if process 0 cannot be reached in time, or rejects this process.
  """
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
    # Wait longer than the limit: process 0 may have started later, and it knows who is missing.
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
  """Yield a server socket; retry while the port is in use, for example by a job that just ended."""
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
  """Return whether a first message is well-formed and has the token of this job."""
  numbers = all(type(hello.get(name)) is int for name in ('index', 'count'))
  return numbers and isinstance(hello.get('host'), str) and _knows(hello, token)


def _knows(message: dict, token: str) -> bool:
  """Return whether a message has the token of this job, compared in constant time."""
  return hmac.compare_digest(str(message.get('token', '')).encode(), token.encode())


def _shown(text: object) -> str:
  """Return text from another process as one short line without control characters."""
  return ' '.join(printable(text).split())[:_WORD]


def _refuse(lines: Lines, token: str, sentence: str) -> NoReturn:
  """Send an error message to all connected processes and raise it as InputError."""
  for line, _ in lines.values():
    _tell(line, {'no': sentence, 'token': token})
  raise InputError(sentence)


def _ended(line: socket.socket) -> bool:
  """Return whether the other side has closed the connection."""
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
  """Receive one JSON message; None if none arrives in time. Read no bytes after its end."""
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
