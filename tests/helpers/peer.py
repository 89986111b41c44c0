"""A process of a job that only joins the others; run by `test_peers.py`.

    python -m tests.helpers.peer WHAT WHO START_LIMIT PEER_LIMIT HANG_LIMIT

does WHAT if it is process WHO: 'die', 'freeze', 'fail', 'raise', 'hang' or 'dawdle'. The others
wait for it. With any other WHAT, all processes finish. Prints the value that they agreed on.
"""

import os
import signal
import sys
import time

from ttm_jax.errors import EXIT_CODE, InputError, front_door
from ttm_jax.parallel import startup


def main() -> None:
  what, who, *limits = sys.argv[1:]
  place = startup.find_place()
  assert place
  peers = startup.meet(place, *map(float, limits))
  with peers.together({InputError: EXIT_CODE}):
    print(peers.agree('numbers', place.index * 10))
    sys.stdout.flush()
    if place.index == int(who):
      if what == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
      if what == 'freeze':
        os.kill(os.getpid(), signal.SIGSTOP)
      if what == 'fail':
        raise InputError('the disk is full')
      if what == 'raise':
        raise RuntimeError('a bug\nof two lines')
      if what in ('hang', 'dawdle'):
        peers.progress('reading a disk that does not answer')
        time.sleep(600)
    if what == 'hang':
      for step in range(3):
        peers.progress(f'step {step}')
      time.sleep(600)  # As in a computation that uses all devices.
    for step in range(5):
      peers.progress(f'step {step}')
      peers.agree(f'step {step}', limit=2.0 if what == 'dawdle' else None)


if __name__ == '__main__':
  with front_door():
    main()
