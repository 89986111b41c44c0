"""Savings while sampling: plain references, and nothing saved where nothing may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import exported
from ttm_jax import conditioning
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE2, Stage
from ttm_jax.training import savings
from ttm_jax.training.savings import Savings

SCALES = {'visual_scale': 1.5, 'text_scale': 4.0, 'rescale': 0.5}
STEPS = 6


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Tiny runs of stage 2, by preset: flow matching, and diffusion."""
  names = 'dit', 'unet'
  return {n: exported.make_runs(tmp_path_factory.mktemp(n), n)[1] for n in names}


def stage(run, solver=None, **sample):
  return Stage(run, STAGE2, sample=SCALES | sample, steps=STEPS, solver=solver)


def videos(made, seed=3):
  request = exported.request()
  return made.generate([request], seed, exported.moved(request.mask)[None])


def test_neutral_values_change_nothing(runs):
  neutral = stage(runs['dit'], guidance_interval=(0.0, 1.0), guidance_every=1, reuse=0.0)
  assert neutral.denoiser.savings == Savings()
  np.testing.assert_array_equal(videos(neutral), videos(stage(runs['dit'])))


def reference(made, interval=(0.0, 1.0), every=1, threshold=0.0):
  """Sample step by step, without jit; return the latents and the evaluations of the network."""
  sampler, denoiser = made.sampler, made.denoiser
  request, passes = exported.request(), 0
  arrays = made.batch([request], exported.moved(request.mask)[None])
  condition, start = sampler.begin(made.context.codec, arrays, made.key(3))
  model = nnx.merge(sampler._graphdef, made._params.result())
  network = jax.jit(denoiser.predictor(model))
  both = jax.jit(
    conditioning.with_and_without_guidance(
      denoiser.predictor(model), condition, denoiser.null_text, 1.5, 4.0
    )
  )
  state, rows, since, difference = start.solver, denoiser.solver.table, 0, None
  data = moved_from = rate = None
  for i in range(STEPS):
    row, x = jax.tree.map(lambda a, i=i: a[i], rows), state[0]
    t = jnp.full(1, row.t)
    level = 1 - np.asarray(denoiser.solver.rows.t)[i]
    change = np.inf if rate is None else rate * norm(x - moved_from) / norm(data)
    if i < 2 or i == STEPS - 1 or not change < threshold:
      if interval[0] <= level <= interval[1]:
        if since % every == 0:
          mixed, full = both(x, t)
          difference, passes = mixed - full, passes + 3
        else:
          full, passes = network(x, t, condition), passes + 1
        prediction = conditioning.rescaled(full + difference, full, 0.5)
      else:
        prediction, passes = network(x, t, condition), passes + 1
      new = denoiser.process.data_of(prediction, x, row.signal, row.spread)
      if data is not None:
        rate = norm(new - data) / norm(x - moved_from)
      data, moved_from = new, x
    since += interval[0] <= level <= interval[1]
    prediction = denoiser.process.prediction_of(data, x, row.signal, row.spread)
    state = denoiser.solver.update(state, prediction, row)
  return np.asarray(state[0]), passes


def norm(x):
  return float(np.linalg.norm(np.asarray(x)))


def sampled(made):
  """Return the latents of the compiled sampler, and the evaluations of the network."""
  sampler, denoiser = made.sampler, made.denoiser
  request = exported.request()
  arrays = made.batch([request], exported.moved(request.mask)[None])
  condition, state = jax.jit(sampler.begin)(made.context.codec, arrays, made.key(3))
  step = jax.jit(sampler.step)
  for i in range(STEPS):
    row = jax.tree.map(lambda a, i=i: a[i], denoiser.table)
    state = step(made._params.result(), condition, state, row)
  return np.asarray(state.solver[0]), int(state.memory.passes)


ALL = {'guidance_interval': (0.0, 0.97), 'guidance_every': 2, 'reuse': 0.9}


@pytest.mark.parametrize(
  'preset, options, passes',
  [
    ('dit', {'guidance_interval': (0.3, 0.97)}, None),
    ('dit', {'guidance_every': 4, 'solver': 'unipc'}, 2 * 3 + 4),
    ('dit', {'reuse': 0.9}, None),
    pytest.param('unet', {**ALL, 'solver': 'dpmpp'}, None, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_each_saving_is_its_plain_reference(runs, preset, options, passes):
  made = stage(runs[preset], **options)
  got, count = sampled(made)
  wanted, known = reference(
    made,
    options.get('guidance_interval', (0.0, 1.0)),
    options.get('guidance_every', 1),
    options.get('reuse', 0.0),
  )
  assert count == known < 3 * STEPS and passes in (None, count)
  np.testing.assert_allclose(got, wanted, atol=1e-3 * np.abs(wanted).max())


def test_a_difference_of_every_step_is_guidance(runs):
  """Kept differences that are computed anew at every step are plain guidance."""
  whole = stage(runs['dit'])
  wanted = videos(whole)
  whole.denoiser.savings = Savings(guidance_every=STEPS)
  plan = Savings().plan(np.asarray(whole.denoiser.solver.rows.t))
  assert plan.differs.all() and plan.guided.all()
  whole.denoiser.savings.__dict__['plan'] = lambda times: plan
  whole.sampler._programs.clear()
  whole.sampler._loops.clear()
  assert np.abs(videos(whole).astype(int) - wanted).max() <= 1


def test_without_guidance_only_reuse_saves(runs):
  plain = {'visual_scale': 1.0, 'text_scale': 1.0, 'guidance_every': 3}
  assert sampled(stage(runs['dit'], **plain))[1] == STEPS
  assert sampled(stage(runs['dit'], **plain, reuse=0.9))[1] < STEPS


def test_what_steps_evaluate():
  plan = Savings((0.25, 0.75), 2).plan(np.array([0.0, 0.2, 0.25, 0.5, 0.7, 0.75, 0.8]))
  np.testing.assert_array_equal(plan.guided, [0, 0, 1, 1, 1, 1, 0])
  np.testing.assert_array_equal(plan.differs, [0, 0, 1, 0, 1, 0, 0])
  np.testing.assert_array_equal(plan.evaluated, [1, 1, 0, 0, 0, 0, 1])


def test_one_sample_that_needs_it_has_the_batch_evaluated():
  x = jnp.ones((2, 3))
  plan = savings.Plan(True, True, False)
  evaluations = []

  def evaluate(memory):
    evaluations.append(1)
    return 2 * x, memory.replace(passes=memory.passes + 1)

  for rates, passes in (((0.1, 0.1), 0), ((0.1, 0.9), 1), ((0.1, np.nan), 1)):
    memory = savings.Memory(jnp.int32(0), None, x, jnp.zeros_like(x), jnp.array(rates))
    data, after = savings.reuse(evaluate, x, memory, plan, 0.5)
    assert after.passes == passes
    np.testing.assert_array_equal(data, (1 + passes) * x)


@pytest.mark.parametrize(
  'options, said',
  [
    ({'guidance_interval': (0.5, 0.2)}, 'guidance_interval must be two noise levels in 0 to 1'),
    ({'guidance_interval': (0.5, 1.2)}, 'guidance_interval must be two noise levels in 0 to 1'),
    ({'guidance_every': 0}, 'guidance_every must be at least 1, got 0'),
    ({'reuse': -0.1}, 'reuse must be 0 to below 1, got -0.1'),
    ({'reuse': float('nan')}, 'reuse must be 0 to below 1, got nan'),
    ({'solver': 'ddim'}, "solver must be one of .*'euler', 'unipc', 'dpmpp'.*, got 'ddim'"),
  ],
)
def test_values_that_are_refused(runs, options, said):
  with pytest.raises(InputError, match=said):
    stage(runs['dit'], **options)
