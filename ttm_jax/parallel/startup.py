"""Start of a job: its processes find each other, initialize JAX and connect their devices.

Each process determines its index, the number of processes and the address of process 0 from the
first source that applies:

manual          TTM_COORDINATOR (host:port of process 0), TTM_PROCESSES, TTM_PROCESS
Kubernetes      the same, with JOB_COMPLETION_INDEX of an indexed job instead of TTM_PROCESS
others          what JAX detects: SLURM, Open MPI, TPU VMs, TPU on GKE, and Kubernetes if the
                package `kubernetes` is installed

If the coordinator's address is a loopback address (127.0.0.1), nothing listens on others. Otherwise
anyone who can reach the port can join the job, so keep it inside a private network.
"""

import dataclasses
import functools
import os
import re
import socket
import sys
import threading
from collections.abc import Sequence

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.clusters import ClusterEnv
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ttm_jax.errors import EXIT_CODE, InputError


@dataclasses.dataclass(frozen=True)
class Place:
  """The place of a process in its job."""

  address: str  # host:port of process 0.
  count: int  # Number of processes.
  index: int
  devices: Sequence[int] | None = None  # Ids of the local devices to use; None or empty for all.


def find_place(limit: float = 300.0) -> Place | None:
  """Determine the place of this process from its environment.

  Args:
    limit: seconds for the name of process 0 to become known.

  Returns:
    The place, or None if the job has only one process.

  Raises:
    InputError: if variables are missing or inconsistent.
  """
  names = ('TTM_COORDINATOR', 'TTM_PROCESSES', 'TTM_PROCESS')
  if any(os.environ.get(name) for name in names):
    place = _by_hand({name: os.environ.get(name, '') for name in names})
  else:
    # For SLURM, JAX's default is a process per device; one process per node uses all devices.
    told = [os.environ.get(f'SLURM_STEP_NUM_{name}') for name in ('TASKS', 'NODES')]
    devices: Sequence[int] | None = [] if told[0] == told[1] is not None else None
    try:
      address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, devices, None, int(limit)
      )
    except Exception as error:  # Of many types: no right to ask Kubernetes, an unknown name.
      raise InputError(
        f'cannot find the other processes of this job ({str(error).partition(chr(10))[0]}): set'
        f' {", ".join(names)}, or TTM_PROCESSES=1 for a job of one process'
      ) from error
    if address is None:
      return None
    assert count is not None and index is not None
    place = Place(address, count, index, devices)
  return place if place.count > 1 else None


def _by_hand(told: dict[str, str]) -> Place:
  """Return the place that TTM_* variables describe, with JOB_COMPLETION_INDEX for the index."""
  told['TTM_PROCESS'] = told['TTM_PROCESS'] or os.environ.get('JOB_COMPLETION_INDEX', '')
  address, count, index = told.values()
  if count == '1':
    return Place(address, 1, 0)
  missing = [name for name, value in told.items() if not value]
  if missing:
    raise InputError(f'a job of several processes also needs {" and ".join(missing)}')
  if not re.fullmatch(r'.+:\d+', address):
    raise InputError(f'TTM_COORDINATOR must be host:port of process 0, got {address!r}')
  if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
    raise InputError(
      f'TTM_PROCESSES={count} must be a number and TTM_PROCESS={index} one from 0 to just below it'
    )
  return Place(address, int(count), int(index))


def initialize(start_limit: float = 300.0, peer_limit: float = 60.0) -> None:
  """Join the job that this process belongs to, if it has several, and initialize JAX for it.

  Return when all processes have joined. Exit with code 2 if that takes longer than `start_limit`.

  Args:
    start_limit: seconds in which all processes must join.
    peer_limit: seconds without a heartbeat after which JAX considers a process lost.

  Raises:
    InputError: if the environment describes the job incompletely, or the port cannot be used.
  """
  place = find_place(start_limit)
  if place is None:
    return
  host, port = place.address.rsplit(':', 1)
  loopback = re.fullmatch(r'localhost|127(\.\d+){3}|\[::1\]', host) is not None
  if loopback:
    _collectives_at(host.strip('[]'))
  if place.index == 0:
    _check_port(host.strip('[]') if loopback else '', int(port))
  # After `initialization_timeout` JAX aborts, without a sentence for the user.
  giving_up = threading.Timer(start_limit, _give_up, [place, start_limit])
  giving_up.start()
  try:
    jax.distributed.initialize(
      place.address,
      place.count,
      place.index,
      local_device_ids=place.devices,
      cluster_detection_method='deactivate',
      coordinator_bind_address=place.address if loopback else None,
      initialization_timeout=int(start_limit) + 10,
      heartbeat_timeout_seconds=max(int(peer_limit), 1),
      shutdown_timeout_seconds=max(int(peer_limit), 1),
    )
  finally:
    giving_up.cancel()


def _give_up(place: Place, limit: float) -> None:
  """Exit because a process is missing."""
  said = (
    f'error: process {place.index} started, but not all {place.count} processes reached'
    f' {place.address} within {limit:g} seconds: see whether each started and can reach this'
    ' address, or raise --config.job.start_limit'
  )
  print(said, file=sys.stderr, flush=True)
  os._exit(EXIT_CODE)


def _check_port(host: str, port: int) -> None:
  """Raise InputError if process 0 cannot listen at its port; JAX may crash then."""
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()
  except OSError as error:
    reason = os.strerror(error.errno or 0).lower()
    raise InputError(
      f'process 0 cannot listen at port {port} ({reason}): wait for the job that uses it, or give'
      ' another port in TTM_COORDINATOR'
    ) from error


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
