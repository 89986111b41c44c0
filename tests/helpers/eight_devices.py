"""Compare attention and training on eight devices with one device; print the errors as JSON.

    python -m tests.helpers.eight_devices attention
    python -m tests.helpers.eight_devices placing
    python -m tests.helpers.eight_devices training stage2_dit '{"fsdp": 8}' '{"data": 2}' ...

Run by `test_sharded.py` in a subprocess, since the number of devices is fixed when JAX starts.

Training of denoisers is compared in float64. In float32 small gradients, such as those of queries
and keys, do not agree to 1e-5 even on one device, if the order of summation differs. Autoencoders
are compared in float32: their convolutions are slow in float64, and agree to 1e-5.
"""

import functools
import json
import os
import re
import sys
from typing import Any

os.environ.setdefault('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=8'

import jax
import jax.numpy as jnp

if sys.argv[1:2] == ['training'] and sys.argv[2:3] != ['codec_tae']:
  # Must run before the package is imported, so that it uses float64 wherever it names float32.
  jax.config.update('jax_enable_x64', True)
  jnp.float32 = jnp.float64

import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from tests.helpers import tiny
from ttm_jax.data.context import Context, Encoding
from ttm_jax.data.encode import null_text
from ttm_jax.ops.attention import attention
from ttm_jax.ops.object_attention import make_block_mask, object_attention
from ttm_jax.parallel.mesh import AXES, BATCH, batch_sharding, make_mesh, replicated, shardings
from ttm_jax.planning import hlo
from ttm_jax.planning.compile import Run
from ttm_jax.presets import model_config, preset
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.training import digests, placing
from ttm_jax.training.optimizer import make_optimizer
from ttm_jax.training.packing import unpack
from ttm_jax.training.state import create
from ttm_jax.training.step import make_step

MESHES = {
  'samples': {'data': 2, 'fsdp': 4},
  'heads': {'tensor': 4, 'data': 2},
  'tokens': {'sequence': 4, 'fsdp': 2},
  'all': {'data': 2, 'sequence': 2, 'tensor': 2},
}


STEPS, BATCH_SIZE, SLOTS = 10, 16, 2
DTYPE = np.dtype(jnp.float32).name


class Codec:
  """A codec stub with the properties that a network needs."""

  channels = tiny.CHANNELS

  def __init__(self, stride):
    self.stride = stride, stride

  def frame_groups(self, num_frames):
    """Return the latent frame of each frame, int [T]."""
    return np.arange(num_frames) // 2


def run_of(name, changes):
  """Return the run of a shipped configuration in DTYPE, at a tiny size.

  Args:
    name: name of the configuration.
    changes: configuration values by dotted key.
  """
  config = tiny.shrunk(name, model__dtype=DTYPE, data__batch_size=BATCH_SIZE)
  if config.task == 'codec':
    config.optimizer.warmup = 1
    config.update_from_flattened_dict(changes)
    return Run.make(config, (config.data.frames, 16, 16))
  config.model.heads = 8
  if config.preset == 'unet':
    config.model.widths = (16, 32)
  else:
    config.model.update({'layers': 3, 'ffn': 64})
  config.optimizer.update({'warmup': 1, 'learning_rate': 1e-3})
  config.update_from_flattened_dict(changes)
  texts = {'t5': lambda texts, n: (np.zeros((len(texts), n, 16)), np.zeros(len(texts), np.int32))}
  # The full-size U-Net downsamples latents three times.
  codec = Codec(2 if config.preset == 'unet' else 4)
  side = 16 // codec.stride[0]
  grids = preset(config.preset).grids(model_config(config), side, side)
  encoders = {'t5': TextEncoderSpec(16, 8, 4)}
  encoding = Encoding(config.preset, 4, 16, 16, 8.0, 'spread8', SLOTS, encoders, grids)
  return Run.make(config, context=Context(encoding, codec, null_text(encoding, texts)))


def drawn(run, rng):
  """Return a batch of random latents, texts and token masks."""

  def draw(name, x):
    shape = (BATCH_SIZE, *x.shape)
    if name == 'pixels':
      return rng.integers(0, 256, shape).astype(x.dtype)
    if name.endswith('region'):
      return rng.integers(0, SLOTS + 1, shape).astype(x.dtype)
    if 'token_masks' in name:
      return rng.integers(0, 2 ** (SLOTS + 1), shape).astype(x.dtype)
    if name.endswith('length'):
      return rng.integers(1, 4, shape).astype(x.dtype)
    return rng.normal(size=shape).astype(x.dtype)

  return {name: draw(name, x) for name, x in run.of_one.items()}


def remembering() -> optax.GradientTransformation:
  """Return a gradient transformation that stores the unchanged gradients in its state."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (grads, grads),
  )


def _gradients(state):
  return unpack(jax.device_get(state.optimizer[0]), state.params)


def trained(run, mesh, late=None):
  """Train for ten steps.

  Args:
    run: the run to train.
    mesh: the mesh to train on.
    late: the train state for the last gradients; by default that before the last step. A common
      state for all meshes is needed, because nine steps of AdamW amplify rounding errors: it
      divides by the root of the mean squared gradients.

  Returns:
    The losses of all steps; the gradients of the first and the last step; the state `late`; and the
    compiled step.
  """
  config, objective = run.config, run.objective
  optimizer = optax.chain(remembering(), make_optimizer(config.optimizer, STEPS))
  graphdef = run.graphdef()

  def initial(key):
    params = nnx.to_pure_dict(nnx.split(objective.build(0))[1])
    # Gates and output projections are initialized to zero, and would hide the layers before them.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return create(jax.tree.unflatten(tree, leaves), optimizer, objective.frozen)

  with jax.set_mesh(mesh):
    state_shardings = shardings(
      jax.eval_shape(initial, jax.random.key(1)), objective.sharding, mesh
    )
    state = jax.device_put(_initial(run, initial), state_shardings)
    step = jax.jit(
      make_step(objective, graphdef, optimizer, config.train.accumulate, 0.99),
      donate_argnums=0,
      out_shardings=(state_shardings, replicated(mesh)),
    )
    rng, key = np.random.default_rng(0), jax.random.key(2)
    batches = [jax.device_put(drawn(run, rng), batch_sharding(mesh)) for _ in range(STEPS)]
    compiled = step.lower(state, batches[0], key).compile()
    losses, gradients = [], []
    for i, arrays in enumerate(batches):
      before = jax.device_get(state) if i == STEPS - 1 else None
      state, metrics = compiled(state, arrays, key)
      losses.append(float(metrics['loss'][0] / metrics['loss'][1]))
      if i == 0:
        gradients.append(_gradients(state))
    late = late or before
    state, _ = compiled(jax.device_put(late, state_shardings), batches[-1], key)
    gradients.append(_gradients(state))
  return losses, gradients, late, compiled


_states: dict = {}


def _initial(run, initial):
  name = run.config.task, run.config.get('preset'), bool(run.objective.frozen)
  if name not in _states:
    _states[name] = jax.device_get(jax.jit(initial)(jax.random.key(1)))
  return _states[name]


def training(name, *settings) -> dict:
  """Compare the training of a configuration on eight devices with one device.

  Args:
    name: name of the configuration.
    *settings: JSON objects of mesh axis sizes and configuration values by dotted key.

  Returns:
    For each setting the largest relative errors of losses and gradients, and the results of `whole`
    and `gathered`.
  """
  one = make_mesh({}, jax.devices()[:1])

  @functools.cache
  def alone(parts, adapters):
    return trained(run_of(name, {'train.accumulate': parts, **dict(adapters)}), one)[:3]

  found = {}
  for text in settings:
    changes = json.loads(text)
    sizes = {axis: changes.pop(axis) for axis in AXES if axis in changes}
    run = run_of(name, changes)
    adapters = tuple((key, value) for key, value in changes.items() if key.startswith('lora.'))
    wanted_losses, wanted, late = alone(run.config.train.accumulate, adapters)
    losses, gradients, _, compiled = trained(run, make_mesh(sizes), late)
    found[text] = {
      'loss': max(abs(a / b - 1) for a, b in zip(losses, wanted_losses, strict=True)),
      'gradients': max(map(difference, gradients, wanted)),
      'whole': whole(run, compiled),
      'gathered': gathered(run, compiled),
    }
  return found


def difference(a, b) -> float:
  """Return the largest relative difference of two gradient trees.

  The difference of each array is relative to its largest gradient, or to 1e-3 of the largest
  gradient of the tree `b` if that is larger.
  """
  most = max(float(np.abs(x).max()) for x in jax.tree.leaves(b))
  return max(
    float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-3 * most))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def whole(run, compiled) -> list[str]:
  """Return the shapes of stacked parameters that appear unsharded in the program."""
  stacked = {
    tuple(x.shape)
    for path, x in jax.tree_util.tree_leaves_with_path((run.shapes.params, run.shapes.frozen))
    if 'blocks' in jax.tree_util.keystr(path) and x.ndim == 3 and min(x.shape[1:]) >= 32
  }
  read = hlo.parse(compiled.as_text())
  return sorted(
    {
      str(shape.sizes)
      for computation in read.computations.values()
      for instruction in computation.instructions.values()
      for shape in instruction.shapes
      if shape.sizes in stacked
    }
  )


def gathered(run, compiled) -> list[str]:
  """Return the shapes of all-gathers larger than any parameter.

  Such all-gathers indicate activations that should have stayed sharded.
  """
  parameters = jax.tree.leaves((run.shapes.params, run.shapes.frozen))
  most = max(x.size * x.dtype.itemsize for x in parameters)
  read = hlo.parse(compiled.as_text())
  return [
    str(instruction.shapes)
    for computation in read.computations.values()
    for instruction in computation.instructions.values()
    if instruction.opcode.startswith('all-gather') and instruction.bytes > most
  ]


def attentions() -> dict:
  """Return the largest relative errors of attention and its gradients on eight devices.

  Keys are `errors`, by mesh and shape, and `collectives`.
  """
  rng = np.random.default_rng(0)
  found = {}
  for samples, m in ((8, 48), (3, 48), (8, 20)):
    n, heads, d = 48, 4, 8
    q, k, v = (rng.normal(size=(samples, s, heads, d)).astype(np.float32) for s in (n, m, m))
    q_bits = np.sort(rng.choice([0, 1, 2, 4], (samples, n)), 1).astype(np.int32)
    k_bits = q_bits if m == n else rng.choice([0, 2, 6], (samples, m)).astype(np.int32)

    def loss(q, k, v, q_bits=q_bits, k_bits=k_bits, name='chunked'):
      block_mask = make_block_mask(q_bits, k_bits, head_dim=8, dtype=q.dtype, implementation=name)
      y = object_attention(q, k, v, q_bits, k_bits, block_mask=block_mask) + attention(q, k, v)
      return (y**2).sum(), y

    whole = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    wanted = jax.tree.leaves(whole(q, k, v))
    for name, sizes in MESHES.items():
      with jax.set_mesh(make_mesh(sizes)):
        got = jax.tree.leaves(jax.jit(whole)(q, k, v))
      worst = max(
        float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(got, wanted, strict=True)
      )
      found[f'{name}: {samples} samples, {m} keys'] = worst
  return {'errors': found, 'collectives': collectives()}


def collectives() -> dict[str, int]:
  """Count the collectives of object attention under sequence parallelism, forward and backward."""
  mesh = make_mesh({'sequence': 4, 'fsdp': 2})
  tokens = NamedSharding(mesh, PartitionSpec(*BATCH, 'sequence', 'tensor', None))
  x = jax.ShapeDtypeStruct((8, 256, 4, 64), jnp.float32, sharding=tokens)
  bits = jax.ShapeDtypeStruct((8, 256), jnp.int32, sharding=NamedSharding(mesh, BATCH))

  def loss(q, k, v, bits):
    return object_attention(q, k, v, bits, bits, implementation='chunked').sum()

  with jax.set_mesh(mesh):
    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, bits).compile().as_text()
  names = ('all-to-all', 'all-gather', 'all-reduce', 'collective-permute')
  return {name: len(re.findall(rf' {name}(?:-start)?\(', program)) for name in names}


def placings() -> dict:
  """Place parameters in parts on each mesh.

  Returns:
    By mesh, the largest error of the values, whether all shardings and checksums are as wanted, and
    the most bytes read at a time.
  """
  placing.PART = 2**11
  rng = np.random.default_rng(0)
  shapes = {'stack': (6, 16, 32), 'kernel': (16, 64), 'whole': (64, 16), 'vector': (8,), 'one': ()}
  values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  table = (('stack', (None, 'fsdp', 'tensor')), ('kernel', ('fsdp', 'tensor')))
  found = {}
  for name, sizes in {**MESHES, 'both': {'fsdp': 4, 'tensor': 2}}.items():
    mesh, read = make_mesh(sizes), Reads()
    places = shardings(values, table, mesh)
    source = {key: read.of(value) for key, value in values.items()}
    dtypes = {key: jnp.bfloat16 if key == 'stack' else jnp.float32 for key in values}
    got, sums = placing.place(source, places, dtypes)
    wanted = {key: value.astype(dtypes[key]) for key, value in values.items()}
    found[name] = {
      'error': max(float(abs(got[k] - wanted[k]).max()) for k in values),
      'same': all(got[k].sharding == places[k] and got[k].dtype == dtypes[k] for k in values)
      and sums == [digests.sum_on_host(values[k]) for k in sorted(values)],
      'most': read.most,
    }
  return found


class Reads:
  """Makes lazily read arrays, and remembers the most bytes read at a time."""

  def __init__(self):
    self.most = 0

  def of(self, array: np.ndarray) -> Any:
    reads = self

    class Lazy:
      shape, dtype = array.shape, array.dtype

      def __getitem__(self, index):
        part = np.asarray(array[index])
        reads.most = max(reads.most, part.nbytes)
        return part

      def __array__(self, dtype=None, copy=None):
        return self[()]

    return Lazy()


if __name__ == '__main__':
  what, *rest = sys.argv[1:]
  measured = {'attention': attentions, 'training': training, 'placing': placings}
  print(json.dumps(measured[what](*rest)))
