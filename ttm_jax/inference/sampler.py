"""The compiled programs of a trained stage.

Three programs make a video: one encodes the inputs and draws the noise, one takes a sampling step,
one decodes. Seed, prompts, pixels, guidance scales and the number of steps are inputs of theirs.
They are thus traced and compiled once for each size of batch.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.base import Codec
from ttm_jax.conditioning import Condition
from ttm_jax.processes.solver import State
from ttm_jax.training.denoiser import Denoiser

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
  """

  def __init__(self, denoiser: Denoiser):
    self.denoiser = denoiser
    model = nnx.eval_shape(lambda: denoiser.build(0))
    self._graphdef, params = nnx.split(model, nnx.Param)
    # The shapes of the parameters.
    self.params: Params = nnx.to_pure_dict(params)
    self._programs: dict[Any, Programs] = {}
    self._lock = threading.Lock()
    self._pool = ThreadPoolExecutor(thread_name_prefix='compile')

  def compile(self, arrays: Arrays, keys: tuple[int, ...] = ()) -> Programs:
    """Return the programs for a batch; trace them and begin to compile them if there are none.

    Args:
      arrays: the batch, or arrays of these shapes and dtypes.
      keys: shape of the random keys, see `__call__`.
    """
    shapes = (keys, *((name, x.shape, str(x.dtype)) for name, x in sorted(arrays.items())))
    with self._lock:
      if shapes not in self._programs:
        self._programs[shapes] = self._lowered(arrays, keys)
      return self._programs[shapes]

  def _lowered(self, arrays: Arrays, keys: tuple[int, ...]) -> Programs:
    codec, rows = self.denoiser.context.codec, self.denoiser.rows
    key = jax.eval_shape(lambda: jnp.broadcast_to(jax.random.key(0), keys))
    begin = jax.jit(self.begin).lower(codec, arrays, key)
    # In this order, since decoding is needed last and compiles fastest.
    futures = [self._pool.submit(begin.compile)]
    condition, state = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), begin.out_info
    )
    row = jax.tree.map(lambda x: x[0], rows)
    step = jax.jit(self.step).lower(self.params, condition, state, row)
    futures.append(self._pool.submit(step.compile))
    end = jax.jit(self.end).lower(codec, condition, state)
    futures.append(self._pool.submit(end.compile))
    return Programs(*futures)

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
    programs, codec = self.compile(arrays, key.shape), self.denoiser.context.codec
    rows = self.denoiser.rows
    condition, state = programs.begin.result()(codec, arrays, key)
    step = programs.step.result()
    for number in range(len(rows[0])):
      before = state
      state = step(params, condition, state, jax.tree.map(lambda x, n=number: x[n], rows))
      if number:
        # The device has its next step already.
        jax.block_until_ready(before)
        after_step()
    video = programs.end.result()(codec, condition, state)
    jax.block_until_ready(state)
    after_step()
    return video

  def begin(self, codec: Codec, arrays: Arrays, key: jax.Array) -> tuple[Condition, State]:
    """Return the condition of a batch, and the sampler's state before its first step."""
    where = self.denoiser.context
    record = {name: x for name, x in arrays.items() if name not in (PICTURE, RENDERED)}
    still = arrays[RENDERED][:, :1]
    record['video'] = jnp.zeros((len(still), *where.latent_shape))  # It is to be generated.
    for name, pixels in (
      ('trajectory', arrays[RENDERED]),
      ('first_frame', arrays[PICTURE]),
      ('first_mask', still),
    ):
      record[name] = codec.encode(jnp.asarray(pixels)).mean
    record = {name: jnp.asarray(x) for name, x in record.items()}
    _, condition = self.denoiser.known(record, key.ravel()[0])
    return condition, self.denoiser.begin(condition, key, where.latent_shape)

  def step(self, params: Params, condition: Condition, state: State, row: Any) -> State:
    """Return the state after a sampling step."""
    return self.denoiser.step(nnx.merge(self._graphdef, params), condition, state, row)

  def end(self, codec: Codec, condition: Condition, state: State) -> jax.Array:
    """Return the videos of the state after the last step."""
    latents = self.denoiser.latents(condition, state)
    return codec.decode(latents, self.denoiser.context.encoding.frames)
