"""The compiled programs of a trained stage.

Three programs make a video: one encodes the inputs and draws the noise, one takes a sampling step,
one decodes. Seed, prompts, pixels, guidance scales and the number of steps are inputs of theirs.
They are thus traced and compiled once for each size of batch.
"""

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from ttm_jax.codecs.base import Codec
from ttm_jax.conditioning import Condition
from ttm_jax.parallel import compiler
from ttm_jax.parallel.mesh import batch_sharding, replicated, shardings
from ttm_jax.training.denoiser import Denoiser, Sampling, Step

Arrays = Mapping[str, Any]
Params = dict[str, Any]

# Arrays of a batch besides those of a record (see `data.batch`): float32 pixels in [-1, 1].
PICTURE = 'picture'  # [B, 1, H, W, 3]
RENDERED = 'rendered'  # [B, T, H, W, 3], the trajectory.


@dataclasses.dataclass(frozen=True)
class Programs:
  """Programs for one size of batch, which may still be compiled.

  Attributes:
    begin: (codec, arrays, key) -> condition and state of the sampler.
    step: (parameters, condition, state, row) -> state.
    end: (codec, condition, state) -> video, float32 [B, T, H, W, 3] in [-1, 1].
  """

  begin: Future[Any]
  step: Future[Any]
  end: Future[Any]


class Sampler:
  """Samples with a network; its programs are compiled in the background.

  Attributes:
    denoiser: the network with its process, task and context.
    params: shapes of its parameters, with their shardings on a mesh.
    mesh: the mesh; None for one device.
    passes: evaluations of the network for the last batch; three in a step with guidance.
  """

  passes = 0

  def __init__(self, denoiser: Denoiser, mesh: Mesh | None = None):
    """Raise InputError if the network cannot be sharded over the mesh."""
    self.denoiser, self.mesh = denoiser, mesh
    model = nnx.eval_shape(lambda: denoiser.build(0))
    self._graphdef, params = nnx.split(model, nnx.Param)
    self.params: Params = nnx.to_pure_dict(params)
    self.codec = denoiser.context.codec
    if mesh is not None:
      denoiser.check_mesh(mesh.shape)
      places = shardings(self.params, denoiser.preset.sharding, mesh)
      self.params = jax.tree.map(_abstract, self.params, places)
      self.codec = jax.device_put(self.codec, replicated(mesh))
    self._programs: dict[Any, Programs] = {}
    self._loops: dict[Any, tuple[Future[Any], Future[Any]]] = {}
    self._lock = threading.Lock()
    self._pool = ThreadPoolExecutor(thread_name_prefix='compile')

  def sharing(self, denoiser: Denoiser) -> 'Sampler':
    """Return a sampler for another number of steps or other scales, with the same programs."""
    other = copy.copy(self)
    other.denoiser = denoiser
    return other

  def compile(self, arrays: Arrays, keys: tuple[int, ...] = ()) -> Programs:
    """Return the programs for a batch; trace them and begin to compile them if there are none.

    Args:
      arrays: the batch, or arrays of these shapes and dtypes.
      keys: shape of the random keys, see `__call__`.
    """
    shapes = tuple((name, x.shape, str(x.dtype)) for name, x in sorted(arrays.items()))
    with self._lock, contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
      if (shapes, keys) not in self._programs:
        begin = self._lowered_begin(arrays, keys)
        # In this order, since decoding is needed last and compiles fastest.
        first = self._pool.submit(begin.compile)
        if shapes not in self._loops:
          self._loops[shapes] = self._loop(*self._placed(begin.out_info))
        self._programs[shapes, keys] = Programs(first, *self._loops[shapes])
      return self._programs[shapes, keys]

  def _lowered_begin(self, arrays: Arrays, keys: tuple[int, ...]) -> jax.stages.Lowered:
    def key() -> jax.Array:
      return jnp.broadcast_to(jax.random.key(0), keys)

    inputs = self.codec, self._placed(dict(arrays)), self._placed(jax.eval_shape(key))
    return self._lower(self.begin, *inputs)

  def _loop(self, condition: Condition, state: Sampling) -> tuple[Future[Any], Future[Any]]:
    """Return the programs that take a step and decode, for the shapes of condition and state."""
    first = jax.tree.map(lambda x: x[0], self.denoiser.table)
    step = self._lower(self.step, self.params, condition, state, first)
    compiled = self._pool.submit(step.compile)
    end = self._lower(self.end, self.codec, condition, state)
    return compiled, self._pool.submit(end.compile)

  def _lower(self, function: Callable[..., Any], *inputs: Any) -> jax.stages.Lowered:
    """Lower a program; on a mesh, what it returns is sharded over samples."""
    places: dict[str, Any] = {}
    if self.mesh is not None:
      outputs = self._placed(jax.eval_shape(function, *inputs))
      places['out_shardings'] = jax.tree.map(lambda x: x.sharding, outputs)
    gather = self.denoiser.preset.gathers_weights
    return compiler.jit(function, gather=gather, **places).lower(*inputs)

  def _placed(self, tree: Any) -> Any:
    """Return the shapes of arrays with a leading axis of samples, and where they are on a mesh."""
    return jax.tree.map(lambda x: _abstract(x, self._place(x)), tree)

  def _place(self, x: Any) -> NamedSharding | None:
    if self.mesh is None:
      return None
    return batch_sharding(self.mesh) if x.ndim else replicated(self.mesh)

  def __call__(
    self,
    params: Params,
    arrays: Arrays,
    key: jax.Array,
    after_step: Callable[[], None] = lambda: None,
  ) -> jax.Array:
    """Return videos, float32 [B, T, H, W, 3] in [-1, 1].

    Args:
      params: parameters of the network.
      arrays: arrays of B requests.
      key: for the noise: one key [] for all, or one for each request [B].
      after_step: called after each sampling step.
    """
    programs, table = self.compile(arrays, key.shape), self.denoiser.table
    if self.mesh is not None:
      arrays, key = jax.tree.map(lambda x: jax.device_put(x, self._place(x)), (arrays, key))
    condition, state = programs.begin.result()(self.codec, arrays, key)
    step = programs.step.result()
    for number in range(self.denoiser.solver.steps):
      before = state
      state = step(params, condition, state, jax.tree.map(lambda x, n=number: x[n], table))
      if number:
        # The device has its next step already.
        jax.block_until_ready(before)
        after_step()
    video = programs.end.result()(self.codec, condition, state)
    jax.block_until_ready(state)
    after_step()
    self.passes = self.denoiser.passes(state)
    return video

  def begin(self, codec: Codec, arrays: Arrays, key: jax.Array) -> tuple[Condition, Sampling]:
    """Return the condition of a batch, and the sampler's state before its first step."""
    where = self.denoiser.context
    _, condition = self.denoiser.known(self.record(codec, arrays), key.ravel()[0])
    return condition, self.denoiser.begin(condition, key, where.latent_shape)

  def record(self, codec: Codec, arrays: Arrays) -> dict[str, jax.Array]:
    """Return a batch as in training (see `data.batch`); what is to be generated is 0."""
    record = {name: jnp.asarray(x) for name, x in arrays.items() if name not in (PICTURE, RENDERED)}
    rendered = jnp.asarray(arrays[RENDERED])
    shape = len(rendered), *self.denoiser.context.latent_shape
    return record | {
      'video': jnp.zeros(shape),
      'trajectory': codec.encode(rendered).mean,
      'first_frame': codec.encode(jnp.asarray(arrays[PICTURE])).mean,
      'first_mask': codec.encode(rendered[:, :1]).mean,
    }

  def step(self, params: Params, condition: Condition, state: Sampling, step: Step) -> Sampling:
    """Return the state after a sampling step."""
    return self.denoiser.step(nnx.merge(self._graphdef, params), condition, state, step)

  def end(self, codec: Codec, condition: Condition, state: Sampling) -> jax.Array:
    """Return the videos of the state after the last step."""
    latents = self.denoiser.latents(condition, state)
    return codec.decode(latents, self.denoiser.context.encoding.frames)


def _abstract(x: Any, place: NamedSharding | None = None) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
