"""Compiles one program for devices that are not there, see `layout`.

    python -m ttm_jax.planning.worker

What to compile is read as JSON.
"""

import json
import sys

from ml_collections import ConfigDict

from ttm_jax.parallel.mesh import make_mesh
from ttm_jax.planning import compile
from ttm_jax.planning.hardware import topology
from ttm_jax.planning.layout import STEP


def main() -> None:
  asked = json.load(sys.stdin)
  config = ConfigDict(asked['config'])
  run = compile.Run.make(config, tuple(asked['clip']) if asked['clip'] else None)
  devices = compile.tpu_devices(topology(asked['topology'], asked['slices']))
  mesh = make_mesh(asked['mesh'], devices)
  lower = compile.lower_step if asked['what'] == STEP else compile.lower_sampler
  lower(run, mesh).compile()


if __name__ == '__main__':
  main()
