"""Sample on eight devices and on one; print the differences of the videos as JSON.

    python -m tests.helpers.sharded_sampling FOLDER dit '{"data": 4, "tensor": 2}' ...

Run by `test_sharded_sampling.py` in a subprocess, since the number of devices is fixed when JAX
starts. FOLDER has the runs of the preset, as `exported.make_runs` writes them.
"""

import json
import os
import sys
from pathlib import Path

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)

import jax
import numpy as np

from tests.helpers import exported
from ttm_jax.inference.pipeline import STAGE1, STAGE2, Pipeline, Stage
from ttm_jax.parallel.mesh import make_mesh

SCALES = {'visual_scale': 1.5, 'text_scale': 3.0}


def main() -> None:
  folder, *meshes = sys.argv[1:]
  requests = [exported.request(seed) for seed in range(4)]
  seeds = list(range(4))
  ids = np.stack([exported.moved(request.mask) for request in requests])

  def pipeline(mesh):
    return Pipeline(
      *(
        Stage(Path(folder) / name, task, sample=SCALES, steps=2, mesh=mesh)
        for name, task in (('stage1', STAGE1), ('stage2', STAGE2))
      )
    )

  alone = pipeline(None)
  wanted = alone.stage1.generate(requests, seeds), alone.videos(requests, ids, seeds)
  found = {}
  for sizes in map(json.loads, meshes):
    sharded = pipeline(make_mesh(sizes))
    got = sharded.stage1.generate(requests, seeds), sharded.videos(requests, ids, seeds)
    largest = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(got, wanted, strict=True))
    leaves = jax.tree.leaves(sharded.stage2._params.result())
    held = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    found[json.dumps(sizes)] = largest, held / sum(x.nbytes for x in leaves)
  print(json.dumps(found))


if __name__ == '__main__':
  main()
