"""Compiles one program for devices that are not there, see `layout`.

    python -m ttm_jax.planning.worker

What to compile is one line of JSON on the standard input. Where that ends, whoever asked is gone,
and so is the process: it would compile for an hour what nobody reads.
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

# The exit code where whoever asked is gone.
FORSAKEN = 3


def main() -> None:
  # Tracing keeps the millions of objects that it makes; to look for others took 40 % of the time.
  gc.disable()
  asked = json.loads(sys.stdin.readline())
  threading.Thread(target=_follow, daemon=True).start()
  config = ConfigDict(asked['config'])
  run = compile.Run.make(config, tuple(asked['clip']) if asked['clip'] else None)
  devices = compile.tpu_devices(topology(asked['topology'], asked['slices']))
  mesh = make_mesh(asked['mesh'], devices)
  lower = compile.lower_step if asked['what'] == STEP else compile.lower_sampler
  lower(run, mesh).compile()


def _follow() -> None:
  sys.stdin.read()
  os._exit(FORSAKEN)


if __name__ == '__main__':
  main()
