"""Measure the time and the host memory that starting from open weights takes.

    python -m benchmarks.load_weights --dir /tmp/weights --layers 10 20 40

Writes a checkpoint of a transformer of random values (sharded safetensors) for each depth, and
loads it into a mesh of eight virtual CPU devices as `ttm_jax.train` does, each in a new process.
The arrays of virtual devices are in host memory, too; therefore the overhead is what the peak of
the resident memory exceeds these arrays by. Prints per depth:

- the size of the parameters, and the time from the headers to the arrays
- the overhead, for the streamed load and for a load that holds all tensors in host memory first
- the time to restore the converted copy (`init_cache`), and to build the train state

The last line is the slope of the overhead: bytes per byte of parameters.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

DEVICES = 8
FSDP = {'fsdp': DEVICES}
TEXT = 64


def config(layers: int, width: int):
  """Return the sizes of the transformer."""
  from ttm_jax.models.dit.model import DiTConfig

  return DiTConfig(width=width, layers=layers, heads=8, ffn=4 * width, grid=(4, 8, 8))


def encoders():
  """Return the text encoder of the transformer."""
  from ttm_jax.text.encoders import TextEncoderSpec

  return {'t5': TextEncoderSpec(TEXT, 8, 4)}


def write(folder: Path, layers: int, width: int) -> None:
  """Write a checkpoint of random values, in files of at most 200 MB."""
  import numpy as np

  from ttm_jax.exporting.dtypes import DTYPES
  from ttm_jax.exporting.files import Spec, write_tensors
  from ttm_jax.presets import preset

  dit = preset('dit')
  torch = dit.torch
  assert torch is not None
  sizes = config(layers, width)
  specs = [Spec(*pair) for pair in torch.specs(shapes(sizes), sizes)]
  rng = np.random.default_rng(0)
  tensors = ((s.name, rng.random(s.shape, np.float32)) for s in specs)
  write_tensors(folder, specs, tensors, DTYPES['fp32'], 200 * 10**6)
  about = {'_class_name': torch.network, **torch.config_to_torch(sizes, encoders())}
  (folder / 'config.json').write_text(json.dumps(about))


def shapes(sizes):
  """Return the shapes of the parameters."""
  from flax import nnx

  from ttm_jax.presets import preset

  abstract = nnx.eval_shape(lambda: preset('dit').build(sizes, encoders()))
  return nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


def memory(name: str) -> int:
  """Return VmRSS or VmHWM (the resident memory, now or at its peak) of this process, in bytes."""
  found = {}
  for line in Path('/proc/self/status').read_text().splitlines():
    key, _, value = line.partition(':')
    if value.endswith('kB'):
      found[key] = 1024 * int(value.split()[0])
  return found[name]


def load(folder: Path, layers: int, width: int, how: str, cache: Path) -> dict[str, float]:
  """Load the checkpoint on a mesh, and return what that took.

  Args:
    folder: the checkpoint.
    layers, width: sizes of the transformer.
    how: 'streamed', 'whole' (all tensors in host memory first), 'write' or 'cached' (the converted
      copy), or 'state' (streamed, then a train state is built from it).
    cache: folder of the converted copy.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from ttm_jax.configs.base import common
  from ttm_jax.exported_folder import read_network
  from ttm_jax.parallel.mesh import make_mesh, replicated, shardings
  from ttm_jax.parallel.peers import Peers
  from ttm_jax.presets import preset
  from ttm_jax.training.init_cache import InitCache, key
  from ttm_jax.training.optimizer import make_optimizer
  from ttm_jax.training.placing import place
  from ttm_jax.training.state import create

  mesh = make_mesh(FSDP)
  table = preset('dit').sharding
  jax.block_until_ready(jax.jit(lambda: jnp.ones(8), out_shardings=replicated(mesh))())
  usual, begin = memory('VmRSS'), time.perf_counter()
  params = read_network(folder).params
  dtypes = jax.tree.map(lambda x: jnp.dtype('float32'), params)
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), params)
  places = shardings(like, table, mesh)
  files = frozenset().union(*(x.files for x in jax.tree.leaves(params)))
  copy = InitCache(cache, key('benchmark', files, like), Peers(), print)
  with jax.set_mesh(mesh):
    if how == 'cached':
      specs = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, places
      )
      restored = copy.restore(specs)
      assert restored is not None
      arrays, sums = restored
    elif how == 'whole':
      params = jax.tree.map(np.asarray, params)
      arrays = jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]),
        params,
        places,
      )
    else:
      arrays, sums = place(params, places, dtypes)
    jax.block_until_ready(arrays)
    seconds = time.perf_counter() - begin
    size = sum(x.nbytes for x in jax.tree.leaves(arrays))
    if how == 'write':
      copy.save(arrays, sums)
      seconds = time.perf_counter() - begin
    if how == 'state':
      begin = time.perf_counter()
      optimizer = make_optimizer(common().optimizer, 10)
      program = jax.jit(
        lambda source: create(source, optimizer),
        donate_argnums=0,
        out_shardings=shardings(
          jax.eval_shape(lambda source: create(source, optimizer), arrays), table, mesh
        ),
      )
      arrays = jax.block_until_ready(program(arrays))
      size = sum(x.nbytes for x in jax.tree.leaves(arrays))
      seconds = time.perf_counter() - begin
  return {'bytes': size, 'seconds': seconds, 'overhead': memory('VmHWM') - usual - size}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--dir', type=Path, required=True, help='folder for checkpoints; removed')
  parser.add_argument(
    '--layers', type=int, nargs='+', default=[10, 20, 40], help='layers of each network'
  )
  parser.add_argument('--width', type=int, default=768, help='width of the networks')
  parser.add_argument('--how', help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.how:
    folder, (layers,) = given.dir / str(given.layers[0]), given.layers
    print(json.dumps(load(folder, layers, given.width, given.how, given.dir / f'cache{layers}')))
    return
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={DEVICES}',
  }
  points = []
  for layers in given.layers:
    write(given.dir / str(layers), layers, given.width)
    for how in ('streamed', 'whole', 'write', 'cached', 'state'):
      command = [sys.executable, '-m', 'benchmarks.load_weights', f'--dir={given.dir}']
      command += [f'--layers={layers}', f'--width={given.width}', f'--how={how}']
      out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
      found = json.loads(out.stdout.splitlines()[-1])
      if how == 'streamed':
        points.append((found['bytes'], found['overhead']))
      print(
        f'{layers} layers, {how}: {found["bytes"] / 1e9:.2f} GB in {found["seconds"]:.1f} s,'
        f' {found["overhead"] / 1e6:.0f} MB beyond them',
        flush=True,
      )
    shutil.rmtree(given.dir / str(layers))
    shutil.rmtree(given.dir / f'cache{layers}')
  (x0, y0), (x1, y1) = points[0], points[-1]
  print(f'slope of the streamed overhead: {(y1 - y0) / max(x1 - x0, 1):.4f} bytes per byte')


if __name__ == '__main__':
  main()
