"""List the listening sockets of a process tree, from Linux's /proc."""

import ipaddress
import os
from pathlib import Path


def tree(pid: int) -> list[int]:
  """Return a process and its descendants at this moment."""
  parents = {}
  for entry in Path('/proc').iterdir():
    if entry.name.isdigit():
      try:
        stat = (entry / 'stat').read_text()
      except OSError:
        continue
      parents[int(entry.name)] = int(stat.rpartition(')')[2].split()[1])
  found = [pid]
  for one in found:
    found += [child for child, parent in parents.items() if parent == one]
  return found


def listening(pid: int) -> set[tuple[str, int]]:
  """Return address and port of each TCP socket at which a process tree listens."""
  inodes = set()
  for one in tree(pid):
    try:
      for link in os.scandir(f'/proc/{one}/fd'):
        inodes.add(os.readlink(link.path))
    except OSError:
      continue
  found = set()
  for name in ('tcp', 'tcp6'):
    try:
      lines = Path(f'/proc/{pid}/net/{name}').read_text().splitlines()[1:]
    except OSError:
      continue
    for line in lines:
      fields = line.split()
      if fields[3] == '0A' and f'socket:[{fields[9]}]' in inodes:
        address, port = fields[1].split(':')
        words = bytes.fromhex(address)
        # Each four-byte word is in the machine's byte order.
        packed = b''.join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
        found.add((str(ipaddress.ip_address(packed)), int(port, 16)))
  return found


def is_loopback(address: str) -> bool:
  """Return whether only this machine reaches an address, ::ffff:127.0.0.1 included."""
  ip = ipaddress.ip_address(address)
  inner = getattr(ip, 'ipv4_mapped', None)
  return (inner or ip).is_loopback
