"""The train step and the evaluation step as pure functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ttm_jax.nn.lora import add_dropout
from ttm_jax.parallel.mesh import shardings
from ttm_jax.training.objective import Arrays, Metrics, Objective
from ttm_jax.training.packing import pack, unpack
from ttm_jax.training.partial import merged
from ttm_jax.training.random_streams import stream
from ttm_jax.training.spike_guard import judge
from ttm_jax.training.state import TrainState

Array = jax.Array


def make_step(
  objective: Objective,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  accumulate: int,
  ema_decay: float,
  spike: float = 0.0,
) -> Callable[[TrainState, Arrays, Array], tuple[TrainState, Metrics]]:
  """Build the train step (state, arrays of a batch, root key) -> (state, metrics).

  Args:
    objective: the loss.
    graphdef: structure of the network.
    optimizer: works on packed parameters, see `packing`; its update may take `norm`, the global
      norm of the gradients.
    accumulate: number of microbatches per batch (gradient accumulation).
    ema_decay: decay of the EMA. Early steps use the smaller (1 + step) / (10 + step), so that the
      EMA forgets the initial parameters.
    spike: number of deviations above its running mean beyond which a loss is a spike; 0 disables
      this. The update is then skipped, see `spike_guard`.

  Returns:
    The step function. The metrics of a skipped step are zero with count zero.
  """
  optimizer = optax.with_extra_args_support(optimizer)

  def gradients(params, frozen, arrays, key):
    def loss(params):
      model = nnx.merge(graphdef, merged(frozen, params))
      add_dropout(model, stream(key, 'lora', 0))
      return objective.loss(model, arrays, key)

    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return like_parameters(pack(grads)), metrics

  def like_parameters(grads):
    """Shard gradients like parameters, so that each device keeps only its shard of the sum."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
      return grads
    wanted = shardings(grads, objective.sharding, mesh)
    return jax.tree.map(jax.lax.with_sharding_constraint, grads, wanted)

  def accumulated(params, frozen, arrays, key):
    # Microbatch i takes every accumulate-th row, so that each device splits its own rows.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), arrays
    )

    def add(total, part):
      index, arrays = part
      new = gradients(params, frozen, arrays, jax.random.fold_in(key, index))
      return jax.tree.map(jnp.add, total, new), None

    shapes = jax.eval_shape(gradients, params, frozen, jax.tree.map(lambda x: x[0], parts), key)
    zero, none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    begin = like_parameters(zero), none
    (grads, metrics), _ = jax.lax.scan(add, begin, (jnp.arange(accumulate), parts))
    return jax.tree.map(lambda g: g / accumulate, grads), metrics

  def step(state: TrainState, arrays: Arrays, root: Array) -> tuple[TrainState, Metrics]:
    key = stream(root, 'train', state.step)
    whole = gradients if accumulate == 1 else accumulated
    grads, metrics = whole(state.params, state.frozen, arrays, key)
    norm = optax.global_norm(grads)
    total, count = metrics['loss']
    good, guard = judge(state.guard, total / count, norm, spike, objective.kind(arrays))
    metrics = {**metrics, 'grad_norm': (norm, jnp.ones(()))}
    metrics = jax.tree.map(lambda x: jnp.where(good, x, 0), metrics)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))

    params, ema = pack(state.params), pack(state.ema)
    updates, opt_state = optimizer.update(grads, state.optimizer, params, norm=norm)
    new = optax.apply_updates(params, updates)
    average = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, new)

    def kept(new, old):
      # Offloaded state is in host memory; the selection runs on the device.
      old = jax.device_put(old, jax.memory.Space.Device)
      return jnp.where(good, new, old)

    params, ema, opt_state = jax.tree.map(
      kept, (new, average, opt_state), (params, ema, state.optimizer)
    )
    params, ema = unpack(params, state.params), unpack(ema, state.ema)
    return TrainState(state.step + 1, params, ema, opt_state, guard, state.frozen), metrics

  return step


def make_evaluation(
  objective: Objective, graphdef: nnx.GraphDef
) -> Callable[[dict, Arrays, Array], Metrics]:
  """Build the evaluation step (parameters, arrays of a batch, key) -> metrics."""

  def evaluate(params, arrays, key):
    return objective.loss(nnx.merge(graphdef, params), arrays, key)[1]

  return evaluate
