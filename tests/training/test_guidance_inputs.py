"""Students that take guidance scales as inputs: what they start from, learn, and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tests.helpers import exported, tiny, toy
from ttm_jax import conditioning
from ttm_jax.data.encode import TEXT_ENCODERS, place_arrays, text_arrays
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import STAGE2, Pipeline, Stage
from ttm_jax.presets import PRESETS, model_config
from ttm_jax.training.distillation import Distillation
from ttm_jax.training.partial import by_name, split

CONFIGS = {name: f'distill_guidance_stage2_{name}' for name in ('dit', 'unet', 'wan')}
FIXED = {'distill__visual_range': (), 'distill__text_range': ()}
UNGUIDED = {'sample__visual_scale': 1.0, 'sample__text_scale': 1.0}


def batch(where, count=4):
  """Return random latents, and the places and texts of requests, as a batch of a dataset."""
  rng, records = np.random.default_rng(0), []
  frames, *size = where.latent_shape
  for seed in range(count):
    asked = exported.request(seed)
    latents = {'video': frames, 'trajectory': frames, 'first_frame': 1, 'first_mask': 1}
    records.append(
      {
        **{name: rng.normal(size=(n, *size)).astype(np.float32) for name, n in latents.items()},
        **place_arrays(exported.moved(asked.mask), where),
        **text_arrays(
          where.encoding, TEXT_ENCODERS, f'{asked.caption} {seed}', asked.motion, asked.prompts
        ),
      }
    )
  return {name: jnp.stack([record[name] for record in records]) for name in records[0]}


@pytest.fixture(scope='module')
def made():
  """Return the objective of a student by preset, its networks as they start, and a batch."""

  def make(preset, **changes):
    where = exported.context(preset)
    config = tiny.shrunk(CONFIGS[preset], model__dtype='float32', **changes)
    objective = Distillation(config, where)
    teacher = tiny.shrunk(f'stage2_{preset}', model__dtype='float32')
    values = exported.parameters(teacher, objective.context)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: objective.build(0)))

    @jax.jit  # Initial values that the teacher replaces are not computed.
    def begun(values):
      initial = nnx.to_pure_dict(nnx.state(objective.build(0), nnx.Param))
      return objective.transfer(values, initial)

    return objective, nnx.merge(graphdef, begun(values)), batch(where)

  return make


def inputs(objective, arrays, seed=0):
  """Return noisy latents, times and the condition of a batch."""

  @jax.jit
  def made(arrays):
    keys = jax.random.split(jax.random.key(seed), 3)
    target, condition = objective.denoiser.known(arrays, keys[0])
    t = jax.random.uniform(keys[1], (len(target),))
    noise = jax.random.normal(keys[2], target.shape)
    return objective.denoiser.process.corrupt(target, noise, t)[0], t, condition

  return made(arrays)


def predicted(objective, network, x_t, t, condition, guidance=None):
  """Return the prediction of a network, with guidance at two scales if they are given."""
  graphdef, state = nnx.split(network)

  @jax.jit
  def made(state, x_t, t, condition, guidance):
    predict = objective.denoiser.predictor(nnx.merge(graphdef, state))
    if guidance is None:
      return predict(x_t, t, condition)
    null = objective.denoiser.null_text
    return conditioning.guided(predict, condition, null, *guidance)(x_t, t)

  return made(state, x_t, t, condition, guidance)


def scaled(condition, visual, text):
  """Return a condition with the same guidance scales for all samples."""
  scales = jnp.broadcast_to(jnp.float32([visual, text]), (conditioning.batch_size(condition), 2))
  return condition.replace(scales=scales)


@pytest.mark.parametrize('preset', ['dit', pytest.param('unet', marks=pytest.mark.slow), 'wan'])
def test_the_student_starts_as_the_teacher(made, preset):
  objective, model, arrays = made(preset)
  x_t, t, condition = inputs(objective, arrays)
  wanted = predicted(objective, model.teacher, x_t, t, condition)
  assert float(jnp.abs(wanted).max()) > 0.1
  drawn = jnp.float32([[1, 1], [2.5, 5], [3, 10], [1, 10]])
  found = predicted(objective, model.student, x_t, t, condition.replace(scales=drawn))
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_scales_go_to_the_networks_that_take_them(made):
  objective, model, arrays = made('dit')
  x_t, t, condition = inputs(objective, arrays)
  with pytest.raises(ValueError, match='needs guidance scales'):
    predicted(objective, model.student, x_t, t, condition)
  with pytest.raises(ValueError, match='takes no guidance scales'):
    predicted(objective, model.teacher, x_t, t, scaled(condition, 1, 1))


def test_the_teacher_is_guided_by_the_scales_of_each_sample(made):
  objective, model, arrays = made('dit')
  x_t, t, condition = inputs(objective, arrays)
  drawn = objective._with_scales(condition, jax.random.key(1)).scales
  assert drawn.shape == (4, 2) and len(np.unique(drawn)) == 8
  assert (drawn >= 1).all() and (drawn[:, 0] <= 3).all() and 3 < drawn[:, 1].max() <= 10
  graphdef, state = nnx.split(model)
  found = jax.jit(
    lambda state, condition: objective._teacher(nnx.merge(graphdef, state), condition)(x_t, t)
  )(state, condition.replace(scales=drawn))
  alone = predicted(objective, model.teacher, x_t, t, condition, tuple(drawn[2]))
  np.testing.assert_allclose(found[2], alone[2], atol=1e-4)


@pytest.mark.parametrize(
  'preset', ['dit', *(pytest.param(name, marks=pytest.mark.slow) for name in ('unet', 'wan'))]
)
def test_the_scales_have_gradients(made, preset):
  """Of distribution matching, the critic learns them too; the teacher has none."""
  objective, model, arrays = made(preset, distill__method='dmd', process__steps=2, **UNGUIDED)
  graphdef, params = nnx.split(model)

  def loss(params):
    return objective.loss(nnx.merge(graphdef, params), arrays, jax.random.key(0))[0]

  found = by_name(nnx.to_pure_dict(jax.jit(jax.grad(loss))(params)))
  for network in ('student', 'critic'):
    assert jnp.abs(found[f'{network}.time.scales.out.kernel']).max() > 0
  assert not any(name.startswith('teacher.time.scales') for name in found)


@pytest.mark.slow
def test_a_student_learns_two_scales_where_a_fixed_one_learns_one(made):
  """After 300 steps on one batch; errors are relative to that of the teacher without guidance."""

  def trained(**changes):
    objective, model, arrays = made('dit', **changes)
    graphdef, params = nnx.split(model)
    pure = nnx.to_pure_dict(params)
    frozen, others = split(pure, set(by_name(pure)) - set(objective.frozen))
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(others, state, key):
      def loss(others):
        full = nnx.merge(graphdef, frozen | others)
        return objective.loss(full, arrays, key)[0]

      updates, state = optimizer.update(jax.grad(loss)(others), state)
      return optax.apply_updates(others, updates), state

    state = optimizer.init(others)
    for i in range(300):
      others, state = step(others, state, jax.random.key(i))
    return objective, nnx.merge(graphdef, frozen | others), arrays

  def errors(objective, model, arrays):
    """Return the error of a student at each pair of scales, relative to its start."""
    x_t, t, condition = inputs(objective, arrays, seed=9)
    start = predicted(objective, model.teacher, x_t, t, condition)
    found = []
    for scales in jnp.float32(PAIRS):
      wanted = predicted(objective, model.teacher, x_t, t, condition, scales)
      given = scaled(condition, *scales) if objective.denoiser.takes_scales else condition
      error = predicted(objective, model.student, x_t, t, given) - wanted
      found.append(float(jnp.mean(error**2) / jnp.mean((start - wanted) ** 2)))
    return found

  PAIRS = ((1.25, 1.5), (3.0, 10.0))
  middle = {'distill__visual_scale': 2.0, 'distill__text_scale': 5.5}
  fixed = errors(*trained(**FIXED, **UNGUIDED, **middle))
  chosen = errors(*trained())
  print(f'error of fixed scales {fixed}, of scales as inputs {chosen}')
  assert all(a < 0.7 * b for a, b in zip(chosen, fixed, strict=True)), (chosen, fixed)
  assert chosen[1] < 0.5


@pytest.fixture(scope='module')
def student(tmp_path_factory):
  """Return a run of a student with random parameters, and its pipeline with scales to choose."""
  settings, where = exported.config('dit', exported.STAGE2), exported.context('dit')
  settings.update(
    tiny.shrunk('distill_guidance_stage2_dit').to_dict()
    | {
      'model': settings.model,
      'process': settings.process,
      'init_from': 'runs/teacher',
    }
  )
  params = exported.parameters(settings, where)
  path = tmp_path_factory.mktemp('scales') / 'run'
  return exported.save_run(path, settings, where, {'student': params, 'critic': params})


def test_the_scales_are_chosen_when_it_samples(student):
  request = exported.request()
  ids = exported.moved(request.mask)[None]

  def video(**scales):
    stage = Stage(student, STAGE2, sample=scales, steps=2)
    made = Pipeline(None, stage).videos([request], ids, 0)
    assert stage.sampler.passes == 2  # One a step.
    return made.astype(float)

  usual = video()
  np.testing.assert_array_equal(video(visual_scale=1.5, text_scale=7.5), usual)
  assert np.abs(video(text_scale=3.0) - usual).mean() > 0.1
  np.testing.assert_array_equal(video(text_scale=3.0), video(text_scale=3.0, guidance_every=1))


def test_what_it_refuses(student):
  with pytest.raises(InputError) as error:
    Stage(student, STAGE2, sample={'text_scale': 12.0})
  assert str(error.value) == (
    f'run {student} is a student that takes guidance scales as inputs, and text_scale 12 is not in'
    ' 1 to 10: choose a scale in this range, or sample with its teacher, runs/teacher'
  )
  with pytest.raises(InputError, match='made for any number of steps: leave out guidance_every'):
    Stage(student, STAGE2, sample={'guidance_every': 2})

  def said(name='distill_guidance_stage2_dit', **changes):
    with pytest.raises(InputError) as error:
      Distillation(tiny.shrunk(name, **changes), exported.context('dit'))
    return str(error.value)

  assert said(sample__text_scale=20.0) == (
    'config.sample.text_scale 20 is not in 1 to 10, the range of config.distill: choose a scale'
    ' that is drawn in training'
  )
  assert 'text_range must be the lowest and the highest' in said(distill__text_range=(3.0, 1.0))
  # One range leaves the other scale fixed.
  assert 'visual_scale 2 is not in 1.5 to 1.5' in said(
    distill__visual_range=(), sample__visual_scale=2.0
  )
  with pytest.raises(InputError, match='start from its teacher, runs/teacher'):
    settings = tiny.shrunk('distill_stage2_dit')
    settings.process = exported.config('dit', exported.STAGE2).process
    Distillation(settings, exported.context('dit')).source(str(student))


def test_a_preset_without_such_inputs_is_told(monkeypatch):
  config = tiny.shrunk('distill_guidance_stage2_dit')
  assert model_config(config).guidance_inputs
  monkeypatch.setitem(PRESETS, 'toy', toy.PRESET)
  config.preset, config.model = 'toy', ConfigDict({'width': 16})
  with pytest.raises(
    InputError, match="preset 'toy' takes no guidance scales as inputs: leave out"
  ):
    model_config(config)
  config.distill.update({'visual_range': (), 'text_range': ()})
  assert model_config(config).width == 16
