"""Students: what they learn from, that they learn it, and how their runs are used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import cli, exported, tiny
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.inference.pipeline import Stage
from ttm_jax.preset_names import DEFAULT
from ttm_jax.report.results import read_metrics
from ttm_jax.training import sources
from ttm_jax.training.distillation import Distillation, Networks
from ttm_jax.training.objectives import denoising
from ttm_jax.training.partial import by_name
from ttm_jax.training.students import check_sampling

NAMES = {'dit': 'distill_stage2_dit', 'unet': 'distill_stage2_unet', 'wan': 'distill_stage2_wan'}
# The others compile for a minute, the U-Net for more.
COMPILED = tuple(
  name if name == DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in NAMES
)


@pytest.fixture(scope='module')
def made(latents_for):
  """Return the objective of a student by preset, its networks with random values, and a batch."""

  def make(preset, **changes):
    data = latents_for(preset)
    config = tiny.shrunk(NAMES[preset], data, model__dtype='float32', **changes)
    objective = Distillation(config, Context.load(data))
    values = exported.parameters(config, objective.context)
    model = objective.build(0)
    initial = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    nnx.update(model, objective.transfer(values, initial))
    return objective, model, jax.tree.map(jnp.asarray, next(objective.batches('train', 0)))

  return make


def gradients(objective, model, arrays, key=0):
  """Return loss, metrics, and the largest gradient of each network."""
  graphdef, params = nnx.split(model)

  def loss(params):
    return objective.loss(nnx.merge(graphdef, params), arrays, jax.random.key(key))

  (value, metrics), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  found = by_name(nnx.to_pure_dict(found))
  most = {}
  for name, x in found.items():
    network = name.split('.')[0]
    most[network] = max(most.get(network, 0.0), float(jnp.abs(x).max()))
  return float(value), {name: float(a / b) for name, (a, b) in metrics.items() if b}, most


WITHOUT = {'distill__visual_scale': 1.0, 'distill__text_scale': 1.0, 'distill__rescale': 0.0}


@pytest.mark.slow
@pytest.mark.parametrize('preset', COMPILED)
def test_guidance_is_learned_from_the_guided_teacher(made, preset):
  same = made(preset, distill__method='guidance', **WITHOUT)
  assert same[0].denoiser.solver.steps == 4  # Steps are kept.
  loss, _, most = gradients(*same)
  assert loss < 1e-10 and most['student'] < 1e-4  # The student starts as the teacher.
  guided = made(preset, distill__method='guidance')
  loss, metrics, most = gradients(*guided)
  assert loss > 1e-6 and most['student'] > 1e-5
  assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
  assert 'critic' not in most


@pytest.mark.parametrize('preset', COMPILED)
def test_student_and_critic_learn_their_own_part(made, preset):
  objective, model, arrays = made(preset, process__steps=2, **WITHOUT)
  loss, metrics, most = gradients(objective, model, arrays)
  # Critic and teacher agree at first: the student has nothing to learn yet.
  assert metrics['loss_student'] < 1e-10 and most['student'] < 1e-6
  assert metrics['loss_critic'] == pytest.approx(loss, rel=1e-4) and most['critic'] > 1e-5
  critic = nnx.state(model.critic, nnx.Param)
  nnx.update(model.critic, jax.tree.map(lambda x: 0.9 * x, critic))
  _, metrics, most = gradients(objective, model, arrays)
  assert metrics['loss_student'] > 1e-10 and most['student'] > 1e-8
  assert most['teacher'] == 0


class Gaussian(nnx.Module):
  """The best denoiser of data from a normal distribution, on the path x_t = t x + (1 - t) noise."""

  def __init__(self, mean, variance):
    self.mean = nnx.Param(jnp.float32(mean))
    self.log = nnx.Param(jnp.log(jnp.float32(variance)))

  def __call__(self, x_t, time, condition):
    t = (1 - time / 1000).reshape(-1, *[1] * (x_t.ndim - 1))
    variance = jnp.exp(self.log[...])
    gain = t * variance / (t**2 * variance + (1 - t) ** 2)
    return self.mean[...] + gain * (x_t - t * self.mean[...])


class OneStep(nnx.Module):
  """A student that maps noise to mean + spread * noise."""

  def __init__(self):
    self.mean, self.spread = nnx.Param(jnp.float32(0)), nnx.Param(jnp.float32(0.3))

  def __call__(self, x_t, time, condition):
    return self.mean[...] + self.spread[...] * x_t


def test_the_distribution_of_the_student_becomes_that_of_the_teacher(latents_for):
  data = latents_for('dit')
  config = tiny.shrunk(
    'demo_distill_stage2', data, process__steps=1, process__schedule='shifted', process__sigma_min=0
  )
  objective = Distillation(config, Context.load(data))
  arrays = jax.tree.map(jnp.asarray, next(objective.batches('train', 0)))
  model = Networks(student=OneStep(), teacher=Gaussian(2.0, 0.25), critic=Gaussian(0.0, 1.0))
  graphdef, params = nnx.split(model)
  rates = jax.tree.map(lambda _: 1.0, params)
  rates['student'] = jax.tree.map(lambda _: 0.2, params['student'])
  rates['teacher'] = jax.tree.map(lambda _: 0.0, params['teacher'])
  optimizer = optax.adam(0.05, b1=0.5)

  @jax.jit
  def step(params, state, key):
    def loss(params):
      return objective.loss(nnx.merge(graphdef, params), arrays, key)[0]

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    updates = jax.tree.map(lambda u, rate: u * rate, updates, rates)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for i in range(600):
    params, state = step(params, state, jax.random.key(i))
  student = nnx.to_pure_dict(params)['student']
  assert float(student['mean']) == pytest.approx(2.0, abs=0.1)
  assert abs(float(student['spread'])) == pytest.approx(0.5, abs=0.1)


def test_times_and_passes_of_students(made):
  steps = {1: [0.0], 2: [0, 0.5], 4: [0, 0.25, 0.5, 0.75]}
  from ttm_jax.configs.distill import few_steps

  for preset in NAMES:
    for count, times in steps.items():
      config = tiny.shipped(NAMES[preset])
      few_steps(config.process, count)
      shrunk = tiny.shrunk(NAMES[preset])
      shrunk.process.update(config.process)
      where = exported.context(preset)
      solver = denoising(shrunk, where).denoiser.solver
      np.testing.assert_allclose(solver.rows.t, times, atol=1e-3)


def test_the_cost_of_a_step(made):
  objective, *_ = made('dit', process__steps=4, process__emulated_steps=4)
  assert objective._passes() == 1.5 + 3 + 3 + 1 + 3
  objective, *_ = made('dit', distill__method='guidance', **WITHOUT)
  assert objective._passes() == 3 + 1


@pytest.fixture(scope='module')
def student(stage2, latents, tmp_path_factory):
  """A student of the run of stage 2, trained for six steps with an interruption."""
  path = tmp_path_factory.mktemp('student') / 'run'
  for steps in (4, 6):
    ended = cli.run(*command(path, latents, stage2, steps))
    assert ended.code == 0, ended.err
  return path


def command(path, latents, teacher, steps, **changes):
  few = {'process__steps': 2, 'process__emulated_steps': 2, 'init_from': str(teacher)}
  return tiny.train_command(
    'demo_distill_stage2', path, latents, train__steps=steps, **(few | changes)
  )


def test_a_run_is_read_as_its_student(student, stage2, latents, tmp_path):
  plain = by_name(sources.read_parameters(stage2))
  found = by_name(sources.read_parameters(student))
  assert {name: x.shape for name, x in found.items()} == {n: x.shape for n, x in plain.items()}
  assert any((found[name] != plain[name]).any() for name in plain)
  logged = [m for m in read_metrics(student) if 'train/loss_critic' in m]
  assert [m['step'] for m in logged] == [1, 2, 3, 4, 5, 6]
  assert (student / 'base.json').exists()
  # The same steps without the interruption.
  ended = cli.run(*command(tmp_path / 'whole', latents, stage2, 6))
  assert ended.code == 0, ended.err
  whole = by_name(sources.read_parameters(tmp_path / 'whole'))
  for name, x in found.items():
    np.testing.assert_array_equal(x, whole[name])


def test_damage_of_the_student_is_found(student, tmp_path):
  import shutil

  run = tmp_path / 'run'
  shutil.copytree(student, run)
  shutil.rmtree(run / 'checkpoints' / '6' / 'ema')
  shutil.copytree(run / 'checkpoints' / '6' / 'params', run / 'checkpoints' / '6' / 'ema')
  with pytest.raises(InputError, match='checkpoints/6 is damaged: ema is not what was saved'):
    sources.read_parameters(run)


def test_a_student_is_sampled_as_it_was_made(student):
  assert Stage(student, 'motion_to_video').sampling_steps == 2
  for wrong, name in (({'steps': 8}, 'steps'), ({'sample': {'text_scale': 2.0}}, 'text_scale')):
    with pytest.raises(InputError, match=f'a student, made for 2 steps .* leave out {name}, or'):
      Stage(student, 'motion_to_video', **wrong)
  Stage(student, 'motion_to_video', sample={'text_scale': 1.0}, steps=2)


def test_what_cannot_be_distilled(stage1, stage2, latents, tmp_path):
  def said(**changes):
    ended = cli.run(*command(tmp_path / 'run', latents, stage2, 4, **changes))
    assert ended.code == 2 and not (tmp_path / 'run' / 'checkpoints').exists()
    return ended.err

  assert 'a student needs a teacher: set --config.init_from' in said(init_from='')
  assert "was trained for 'image_to_motion'; the teacher of a student" in said(
    init_from=str(stage1)
  )
  assert 'a teacher is a run directory' in said(init_from='pretrained:x')
  assert 'a student samples without guidance' in said(sample__text_scale=2.0)
  assert "config.process.prediction is 'velocity', and the teacher" in said(
    process__prediction='velocity'
  )
  assert "config.first_frame is 'concat', and run" in said(first_frame='concat')
  assert 'config.distill: method must be one of' in said(distill__method='lcm')
  assert 'set --config.lora.rank=0' in said(lora__rank=2)


def test_configurations_are_those_of_the_teacher_but_for_sampling():
  for name in tiny.SHIPPED:
    if 'distill' not in name:
      continue
    takes_scales = 'guidance' in name
    teacher = tiny.shipped(name.replace('distill_', '').replace('guidance_', ''))
    student = tiny.shipped(name)
    assert student.task == teacher.task and student.model == teacher.model
    assert student.distill.text_scale == teacher.sample.text_scale
    if takes_scales:
      low, high = student.distill.text_range
      assert low <= student.sample.text_scale <= high
      # The demo's teachers have no guidance.
      assert teacher.sample.text_scale in (1, student.sample.text_scale)
      assert student.process == teacher.process
      continue
    assert student.sample.text_scale == 1 and student.process.steps == 4


@pytest.mark.parametrize(
  ('preset', 'solver'), [('dit', 'euler'), ('unet', 'ddim'), ('wan', 'euler')]
)
def test_the_solver_of_a_student_is_its_own(preset, solver):
  config = tiny.shipped(f'distill_stage2_{preset}')
  for asked in (None, solver):
    check_sampling('runs/student', config, None, {}, asked)
  with pytest.raises(InputError, match='leave out solver, or sample with its teacher'):
    check_sampling('runs/student', config, None, {}, 'dpmpp')
