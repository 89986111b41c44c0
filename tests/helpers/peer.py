"""A minimal process of a multi-process job; run by `test_peers.py`.

    python -m tests.helpers.peer WHAT WHO START_LIMIT PEER_LIMIT HANG_LIMIT

Process WHO (or 'all') does WHAT: 'die', 'freeze', 'fail', 'raise' or 'hang', and the others wait
for it. With any other WHAT all run to the end. Prints the numbers that they agree on.
"""

import os
import signal
import sys
import time

from ttm_jax.errors import EXIT_CODE, InputError, front_door
from ttm_jax.parallel.peers import Peers
from ttm_jax.parallel.startup import initialize


def main() -> None:
  """Join the job and act as the arguments say."""
  what, who = sys.argv[1:3]
  start, peer, hang = map(float, sys.argv[3:])
  initialize(start, peer)
  peers = Peers(peer, hang)
  with peers.together({InputError: EXIT_CODE}):
    print(peers.agree('numbers', peers.index * 10), flush=True)
    if who in (str(peers.index), 'all'):
      disturb(what)
    for step in range(3):
      peers.progress()
      peers.agree(f'step {step}')


def disturb(what: str) -> None:
  """Do `what`."""
  if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'freeze':
    os.kill(os.getpid(), signal.SIGSTOP)
  if what == 'fail':
    raise InputError('the disk is \x1b[2J full')
  if what == 'raise':
    raise RuntimeError('a bug\nof two lines')
  if what == 'hang':
    time.sleep(600)


if __name__ == '__main__':
  with front_door():
    main()
