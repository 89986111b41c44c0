"""Conditions of each task, condition dropout, and guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttm_jax.conditioning as cond
from ttm_jax import tasks


def batch_of(b, seed=0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=(b, *shape)), jnp.float32)

  def text(bits):
    bits = jnp.broadcast_to(jnp.asarray(bits, jnp.int32), (b, len(bits)))
    return {'t5': cond.Tokens(normal(bits.shape[1], 8), bits)}

  region = jnp.broadcast_to(1 << jnp.arange(4), (b, 2, 4, 4))
  objects = cond.Objects((cond.TokenMasks(region, region & ~1),), text([2, 2, 2, 4, 4, 4]))
  latents = [normal(2, 4, 4, 3) for _ in range(5)]
  return tasks.Batch(*latents, text([cond.EVERYONE] * 5), text([cond.EVERYONE] * 5), objects)


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


def test_tasks_see_what_the_paper_gives_them():
  batch = batch_of(2)
  target, condition = tasks.TEXT_TO_VIDEO.split(batch)
  assert target is batch.video and condition.text is batch.caption
  assert condition.visual is None and condition.objects is None
  target, condition = tasks.IMAGE_TO_VIDEO.split(batch)
  assert target is batch.video and condition.text is batch.caption
  np.testing.assert_array_equal(condition.visual, batch.first_frame)
  assert condition.objects is None
  target, condition = tasks.IMAGE_TO_MOTION.split(batch)
  assert target is batch.trajectory and condition.text is batch.motion and condition.objects is None
  np.testing.assert_array_equal(condition.visual[..., :3], batch.first_frame)
  np.testing.assert_array_equal(condition.visual[..., 3:], batch.first_mask)
  target, condition = tasks.MOTION_TO_VIDEO.split(batch)
  assert target is batch.video and condition.text is batch.caption
  assert condition.objects is batch.objects
  np.testing.assert_array_equal(condition.visual[..., :3], batch.first_frame)
  np.testing.assert_array_equal(condition.visual[..., 3:], batch.given_trajectory)


def test_drop_takes_from_chosen_samples():
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(3))
  null = null_of(condition)
  null.text['t5'] = null.text['t5'].replace(bits=jnp.array([[cond.EVERYONE, 0, 0, 0, 0]]))
  no_text, no_visual = jnp.array([True, False, False]), jnp.array([False, False, True])
  dropped = cond.drop(condition, null, no_text, no_visual)
  np.testing.assert_array_equal(dropped.text['t5'].bits[0], [cond.EVERYONE, 0, 0, 0, 0])
  np.testing.assert_array_equal(dropped.text['t5'].bits[1:], condition.text['t5'].bits[1:])
  for before, after in zip(jax.tree.leaves(condition), jax.tree.leaves(dropped), strict=True):
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(after[1], before[1])
  (masks,), (before,) = dropped.objects.token_masks, condition.objects.token_masks
  np.testing.assert_array_equal(masks.region[0], before.region[0])
  assert (masks.region[2] == 1).all() and (masks.present[2] == 0).all()
  assert (dropped.visual[2] == 0).all() and (dropped.visual[0] == condition.visual[0]).all()


def test_drop_without_visual_condition_or_objects():
  _, condition = tasks.TEXT_TO_VIDEO.split(batch_of(2))
  first, both = jnp.array([True, False]), jnp.array([True, True])
  dropped = cond.drop(condition, null_of(condition), no_text=first, no_visual=both)
  assert dropped.visual is None and dropped.objects is None
  assert (dropped.text['t5'].embedding[0] == 9).all()
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(2))
  null = null_of(condition).replace(objects=None)
  with pytest.raises(ValueError, match='null_text must hold object prompts'):
    cond.drop(condition, null, no_text=both, no_visual=both)


def test_dropout_takes_five_five_five():
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(8_000))
  dropped = cond.dropout(jax.random.key(3), condition, null_of(condition))
  no_text = np.asarray((dropped.text['t5'].embedding == 9.0).all((1, 2)))
  no_visual = np.asarray((dropped.visual == 0.0).all((1, 2, 3, 4)))
  shares = [
    (no_text & ~no_visual).mean(),
    (no_visual & ~no_text).mean(),
    (no_text & no_visual).mean(),
  ]
  np.testing.assert_allclose(shares, 0.05, atol=0.008)
  (masks,) = dropped.objects.token_masks
  np.testing.assert_array_equal((np.asarray(masks.present) == 0).all((1, 2, 3)), no_visual)
  np.testing.assert_array_equal((np.asarray(masks.region) == 1).all((1, 2, 3)), no_visual)
  prompts = np.asarray(dropped.objects.prompts['t5'].embedding)
  np.testing.assert_array_equal((prompts == 9.0).all((1, 2)), no_text)


def three_ways(x_t, t, c):
  """A network whose prediction shows which conditions it got."""
  visual = c.visual.mean((1, 2, 3, 4), keepdims=True)
  text = c.text['t5'].embedding.mean((1, 2)).reshape(-1, 1, 1, 1, 1)
  prompt = c.objects.prompts['t5'].embedding.mean((1, 2)).reshape(-1, 1, 1, 1, 1)
  there = (c.objects.token_masks[0].present != 0).mean((1, 2, 3)).reshape(-1, 1, 1, 1, 1)
  return t.reshape(-1, 1, 1, 1, 1) * x_t * (1 + visual + 0.1 * text * prompt) + text * there


@pytest.mark.parametrize('visual_scale, text_scale', [(1.5, 7.5), (3.0, 1.0), (1.0, 3.0)])
def test_guidance_mixes_three_predictions(visual_scale, text_scale):
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(2))
  null = null_of(condition)
  x_t, t = batch_of(2, seed=1).video, jnp.array([0.2, 0.9])
  got = cond.guided(three_ways, condition, null, visual_scale, text_scale)(x_t, t)
  yes, no = jnp.array([True] * 2), jnp.array([False] * 2)
  full = three_ways(x_t, t, condition)
  visual_only = three_ways(x_t, t, cond.drop(condition, null, no_text=yes, no_visual=no))
  nothing = three_ways(x_t, t, cond.drop(condition, null, no_text=yes, no_visual=yes))
  wanted = nothing + visual_scale * (visual_only - nothing) + text_scale * (full - visual_only)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  spread = [np.abs(a - b).max() for a, b in ((full, visual_only), (visual_only, nothing))]
  assert min(spread) > 0.1  # Otherwise any formula would pass.


def test_guidance_at_one_is_the_conditional_prediction():
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(2))
  sizes = []

  def predict(x_t, t, c):
    sizes.append(len(x_t))
    return three_ways(x_t, t, c)

  x_t, t = jnp.ones((2, 2, 4, 4, 3)), jnp.ones(2)
  null = null_of(condition)
  at_one = cond.guided(predict, condition, null, visual_scale=1.0, text_scale=1.0)(x_t, t)
  np.testing.assert_array_equal(at_one, three_ways(x_t, t, condition))
  near_one = cond.guided(predict, condition, null, visual_scale=1.0, text_scale=1 + 1e-6)(x_t, t)
  np.testing.assert_allclose(near_one, at_one, rtol=1e-4, atol=1e-4)
  at_zero = cond.guided(predict, condition, null, visual_scale=0.0, text_scale=0.0)(x_t, t)
  np.testing.assert_allclose(at_zero, 1 + 0.1 * 81, rtol=1e-5)  # Text and prompts are all 9.
  assert sizes == [2, 6, 6]


def test_rescaled_guidance_keeps_the_spread_of_the_conditional_prediction():
  _, condition = tasks.MOTION_TO_VIDEO.split(batch_of(2))

  def predict(x_t, t, c):
    text = c.text['t5'].embedding.mean((1, 2)).reshape(-1, 1, 1, 1, 1)
    return x_t * (1 + c.visual[..., :3]) * (0.5 + text)

  x_t, t = batch_of(2, seed=1).video, jnp.zeros(2)
  strong = cond.guided(predict, condition, null_of(condition), 4.0, 4.0, rescale=1.0)(x_t, t)
  plain = cond.guided(predict, condition, null_of(condition), 4.0, 4.0)(x_t, t)
  half = cond.guided(predict, condition, null_of(condition), 4.0, 4.0, rescale=0.5)(x_t, t)
  wanted = predict(x_t, t, condition).std((1, 2, 3, 4))
  np.testing.assert_allclose(strong.std((1, 2, 3, 4)), wanted, rtol=1e-5)
  assert (plain.std((1, 2, 3, 4)) > 2 * wanted).all()
  np.testing.assert_allclose(half, (plain + strong) / 2, rtol=1e-4, atol=1e-5)
