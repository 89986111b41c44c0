"""Values, not shapes: each test would fail on a plausible mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttm_jax.conditioning as cond
from ttm_jax import tasks
from ttm_jax.processes.flow_matching import FlowMatching, linear_quadratic_schedule


@pytest.mark.parametrize(
  'emulated, golden',
  [
    (
      250,
      {
        24: 0.096,
        25: 0.1,
        26: 0.10528,
        27: 0.11312,
        30: 0.152,
        40: 0.448,
        48: 0.86912,
        49: 0.93328,
        50: 1.0,
      },
    ),
    (
      1000,
      {
        24: 0.024,
        25: 0.025,
        26: 0.02752,
        27: 0.03308,
        30: 0.068,
        40: 0.382,
        48: 0.85208,
        49: 0.92452,
        50: 1.0,
      },
    ),
  ],
)
def test_schedule_golden(emulated, golden):
  schedule = linear_quadratic_schedule(50, emulated)
  np.testing.assert_allclose(schedule[list(golden)], list(golden.values()), atol=1e-12)
  assert (np.diff(schedule) > 0).all()


def test_exact_velocity_recovers_the_data():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4))
  noise = jax.random.normal(jax.random.key(1), x.shape)
  process = FlowMatching()
  _, velocity = process.corrupt(x, noise, jnp.zeros(2))
  np.testing.assert_allclose(process.sample(lambda x_t, t: velocity, noise), x, atol=1e-4)


def test_corrupt_ends():
  x, noise = jnp.full((2, 5), 3.0), jnp.full((2, 5), -1.0)
  x_t, _ = FlowMatching().corrupt(x, noise, jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(x_t[0], -1.0)
  np.testing.assert_allclose(x_t[1], 3.0 - 1e-5, atol=1e-6)


def batch_of(b, key=0):
  keys = iter(jax.random.split(jax.random.key(key), 16))

  def latents():
    return jax.random.normal(next(keys), (b, 2, 4, 4, 3))

  def text(bits):
    bits = jnp.broadcast_to(jnp.asarray(bits, jnp.int32), (b, len(bits)))
    return {'t5': cond.Tokens(jax.random.normal(next(keys), (*bits.shape, 8)), bits)}

  region = jnp.broadcast_to(1 << jnp.arange(4), (b, 2, 4, 4))
  objects = cond.Objects((cond.Places(region, region & ~1),), text([2, 2, 2, 4, 4, 4]))
  caption, motion = text([cond.EVERYONE] * 5), text([cond.EVERYONE] * 5)
  return tasks.Batch(latents(), latents(), latents(), latents(), caption, motion, objects)


def null_of(condition):
  def empty(text):
    return {
      name: cond.Tokens(jnp.full_like(tokens.embedding[:1], 9.0), tokens.bits[:1])
      for name, tokens in text.items()
    }

  objects = condition.objects and condition.objects.replace(
    prompts=empty(condition.objects.prompts)
  )
  return condition.replace(text=empty(condition.text), objects=objects)


def test_stages_see_what_the_paper_gives_them():
  batch = batch_of(2)
  target, condition = tasks.image_to_motion(batch)
  assert target is batch.trajectory and condition.text is batch.motion and condition.objects is None
  target, condition = tasks.motion_to_video(batch)
  assert target is batch.video and condition.text is batch.caption
  np.testing.assert_array_equal(condition.visual[..., 3:], batch.trajectory)


def test_dropout_takes_five_five_five():
  _, condition = tasks.motion_to_video(batch_of(20_000))
  dropped = cond.dropout(jax.random.key(3), condition, null_of(condition))
  no_text = np.asarray((dropped.text['t5'].embedding == 9.0).all((1, 2)))
  no_visual = np.asarray((dropped.visual == 0.0).all((1, 2, 3, 4)))
  shares = [
    (no_text & ~no_visual).mean(),
    (no_visual & ~no_text).mean(),
    (no_text & no_visual).mean(),
  ]
  np.testing.assert_allclose(shares, 0.05, atol=0.006)
  (places,) = dropped.objects.places
  np.testing.assert_array_equal((np.asarray(places.present) == 0).all((1, 2, 3)), no_visual)
  np.testing.assert_array_equal((np.asarray(places.region) == 1).all((1, 2, 3)), no_visual)
  prompts = np.asarray(dropped.objects.prompts['t5'].embedding)
  np.testing.assert_array_equal((prompts == 9.0).all((1, 2)), no_text)


def test_guidance_at_one_is_the_conditional_prediction():
  _, condition = tasks.motion_to_video(batch_of(2))

  def predict(x_t, t, c):
    return x_t * c.visual.mean((1, 2, 3, 4), keepdims=True) + c.text['t5'].embedding.mean(
      (1, 2)
    ).reshape(-1, 1, 1, 1, 1)

  x_t, t = jnp.ones((2, 2, 4, 4, 3)), jnp.zeros(2)
  at_one = cond.guided(predict, condition, null_of(condition), visual_scale=1.0, text_scale=1.0)(
    x_t, t
  )
  np.testing.assert_allclose(at_one, predict(x_t, t, condition), rtol=1e-5)
  at_zero = cond.guided(predict, condition, null_of(condition), visual_scale=0.0, text_scale=0.0)(
    x_t, t
  )
  np.testing.assert_allclose(at_zero, 9.0, rtol=1e-5)


def test_rescaled_guidance_keeps_the_spread_of_the_conditional_prediction():
  _, condition = tasks.motion_to_video(batch_of(2))

  def predict(x_t, t, c):
    return x_t * (1 + c.visual[..., :3]) + c.text['t5'].embedding.mean()

  x_t, t = jax.random.normal(jax.random.key(5), (2, 2, 4, 4, 3)), jnp.zeros(2)
  strong = cond.guided(predict, condition, null_of(condition), 4.0, 4.0, rescale=1.0)(x_t, t)
  np.testing.assert_allclose(strong[0].std(), predict(x_t, t, condition)[0].std(), rtol=1e-5)
