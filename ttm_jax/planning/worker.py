"""Compile one program for target hardware that is not attached (see `layout`).

    python -m ttm_jax.planning.worker REQUEST

REQUEST is JSON that states what to compile. When standard input closes, the parent process has
ended, and the worker exits, since compiling can take an hour.
"""

import gc
import json
import os
import sys
import threading

from ml_collections import ConfigDict

from ttm_jax.parallel.mesh import make_mesh
from ttm_jax.planning import compile
from ttm_jax.planning.hardware import topology
from ttm_jax.planning.layout import STEP

# Exit code if the parent process has ended.
PARENT_ENDED = 3


def main() -> None:
  """Compile the program of the request."""
  # Tracing retains millions of objects; scanning them for garbage took 40 % of the time.
  gc.disable()
  asked = json.loads(sys.argv[1])
  threading.Thread(target=_follow, daemon=True).start()
  config = ConfigDict(asked['config'])
  run = compile.Run.make(config, tuple(asked['clip']) if asked['clip'] else None)
  devices = compile.tpu_devices(topology(asked['topology'], asked['slices']))
  mesh = make_mesh(asked['mesh'], devices)
  lower = compile.lower_step if asked['what'] == STEP else compile.lower_sampler
  lower(run, mesh).compile()


def _follow() -> None:
  sys.stdin.read()
  os._exit(PARENT_ENDED)


if __name__ == '__main__':
  main()
