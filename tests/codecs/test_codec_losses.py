"""The losses of the autoencoder against values computed by hand or with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ttm_jax.codecs import losses
from ttm_jax.codecs.base import Moments
from ttm_jax.codecs.discriminator import Discriminator, discriminator_loss, generator_loss
from ttm_jax.codecs.perceptual import Perceptual, load_perceptual
from ttm_jax.errors import InputError
from ttm_jax.trajectory import label_colors


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_kl_divergence():
  shape = (2, 1, 2, 2, 3)
  moved = Moments(jnp.ones(shape), jnp.zeros(shape))
  assert losses.kl_divergence(moved) == pytest.approx(12 * 0.5)
  wide = Moments(jnp.zeros(shape), jnp.full(shape, np.log(4)))
  assert losses.kl_divergence(wide) == pytest.approx(12 * 0.5 * (4 - 1 - np.log(4)))
  with pytest.raises(ValueError, match='needs a posterior'):
    losses.kl_divergence(Moments(jnp.ones(shape)))


def test_outlier_penalty_by_loops():
  latents = random(2, 3, 5, 5, 4)
  latents[0, 1, 2, 3] += 20
  latents[1, 2, 0, 0, 1] -= 30
  total = 0.0
  for frame in latents.reshape(6, 25, 4):
    mean, std = frame.mean(0), frame.std(0)
    for x in frame:
      total += max(np.linalg.norm(x - mean) - 3 * np.linalg.norm(std), 0)
  assert total > 1
  assert losses.outlier_penalty(jnp.asarray(latents)) == pytest.approx(total / 150, rel=1e-4)
  # A video that brightens has no outliers: each frame is measured on its own.
  steps = jnp.asarray([0.0] * 19 + [100.0]).reshape(1, 20, 1, 1, 1) * jnp.ones((1, 20, 3, 3, 2))
  assert losses.outlier_penalty(steps) == 0
  assert jnp.isfinite(jax.grad(losses.outlier_penalty)(steps)).all()


def test_label_error_counts_pixels_on_the_wrong_side_of_an_edge():
  colors = label_colors('spread8').astype(np.float32) / 127.5 - 1
  labels = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 5))
  truth, shown = colors[labels], colors[labels] + 0.3 * random(2, 3, 4, 5, 3)
  total = 0.0
  for pixel, label in zip(shown.reshape(-1, 3), labels.reshape(-1), strict=True):
    likely = np.exp(-np.square(pixel - colors).sum(-1) / 0.25)
    total -= np.log(likely[label] / likely.sum())
  error = losses.label_error(truth, shown, jnp.asarray(colors))
  assert error == pytest.approx(total / labels.size, rel=1e-4)
  assert losses.label_error(truth, truth, jnp.asarray(colors)) < 0.02
  # Gray between red and black: a little brighter or darker decides, at nearly equal squared error.
  red, black = colors[1], colors[0]
  edge = np.stack([0.55 * red + 0.45 * black, 0.45 * red + 0.55 * black]).reshape(2, 1, 1, 1, 3)
  right, wrong = (
    losses.label_error(jnp.broadcast_to(red, (1, 1, 1, 1, 3)), side[None], jnp.asarray(colors))
    for side in edge
  )
  assert right < np.log(2) < wrong


def test_autoencoder_loss_has_the_scale_of_its_sources():
  video = jnp.asarray(random(2, 4, 6, 5, 3))
  shown, latents = 0.5 * video, jnp.asarray(random(2, 2, 9, 9, 4, seed=1)).at[:, :, 0, 0].add(50)
  posterior = Moments(latents, jnp.tanh(latents))
  loss, terms = losses.autoencoder_loss(
    video, shown, posterior, latents, perceptual=lambda a, b: jnp.square(a - b).sum((2, 3, 4))
  )
  assert terms['absolute'] == pytest.approx(np.abs(video).mean() / 2)
  # Summed over the values of a frame, as in the sources; 8 frames, 90 values each.
  of_sources = (
    90 * (terms['absolute'] + terms['perceptual'])
    + 1e-6 * (terms['kl'] * 2) / 8
    + 1e5 * terms['outlier']
  )
  assert loss == pytest.approx(float(of_sources) / 90, rel=1e-5)
  assert terms['perceptual'] == pytest.approx(np.square(video / 2).sum((2, 3, 4)).mean(), rel=1e-5)
  light = losses.LossWeights(kl=0.5, outlier=0, squared=3)
  loss, terms = losses.autoencoder_loss(video, shown, posterior, latents, light)
  expected = np.abs(video).mean() / 2 + 3 * np.square(video).mean() / 4
  expected += 0.5 * float(terms['kl']) / 4 / 90
  assert loss == pytest.approx(expected, rel=1e-5)
  assert 'perceptual' not in terms


WIDTHS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
WIDTHS |= {17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}


@pytest.fixture(scope='module')
def vgg():
  rng = np.random.default_rng(0)
  tensors, d_in = {}, 3
  for index, d_out in WIDTHS.items():
    kernel = rng.standard_normal((d_out, d_in, 3, 3), np.float32) * (2 / (9 * d_in)) ** 0.5
    tensors[f'features.{index}.weight'] = kernel
    tensors[f'features.{index}.bias'] = rng.standard_normal(d_out, np.float32) * 0.1
    d_in = d_out
  for k, width in enumerate((64, 128, 256, 512, 512)):
    tensors[f'lin{k}.weight'] = rng.random((1, width, 1, 1), np.float32)
  return tensors


def lpips_in_numpy(tensors, a, b):
  """Compute LPIPS of one pair of images [H, W, 3], channels first inside, as in the original."""
  distance = 0.0
  features = []
  for picture in (a, b):
    x = picture.astype(np.float64).transpose(2, 0, 1)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    x = ((x + 1) / 2 - mean) / std
    taps = []
    for index in WIDTHS:
      if index in (5, 10, 17, 24):
        c, h, w = x.shape
        x = x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))
      kernel, padded = tensors[f'features.{index}.weight'], np.pad(x, ((0, 0), (1, 1), (1, 1)))
      h, w = x.shape[1:]
      x = sum(
        np.tensordot(kernel[:, :, i, j], padded[:, i : i + h, j : j + w], 1)
        for i in range(3)
        for j in range(3)
      )
      x = np.maximum(x + tensors[f'features.{index}.bias'][:, None, None], 0)
      if index in (2, 7, 14, 21, 28):
        taps.append(x / (np.sqrt((x**2).sum(0)) + 1e-10))
    features.append(taps)
  for k, (x, y) in enumerate(zip(*features, strict=True)):
    distance += (tensors[f'lin{k}.weight'][0] * (x - y) ** 2).sum(0).mean()
  return distance


def test_perceptual_distance_is_lpips(vgg, tmp_path):
  safetensors.numpy.save_file(vgg | {'classifier.0.bias': random(3)}, tmp_path / 'vgg')
  distance = jax.jit(Perceptual.__call__)
  perceptual = load_perceptual(tmp_path / 'vgg')
  a, b = np.tanh(random(2, 1, 16, 16, 3)), np.tanh(random(2, 1, 16, 16, 3, seed=1))
  ours = distance(perceptual, a, b)
  assert ours.shape == (2, 1)
  expected = [lpips_in_numpy(vgg, x[0], y[0]) for x, y in zip(a, b, strict=True)]
  # The package's pixel statistics are those of the original, rounded to three digits.
  np.testing.assert_allclose(ours[:, 0], expected, rtol=1e-2)
  np.testing.assert_allclose(distance(perceptual, b, a), ours, rtol=1e-4)
  np.testing.assert_allclose(distance(perceptual, a, a), 0, atol=1e-6)


def test_the_gradient_of_zero_features_is_zero():
  """Features are divided by their norm, which is 0 here."""
  widths = list(WIDTHS.values())
  dead = Perceptual(
    kernels=tuple((jnp.zeros((3, 3, d, d)),) for d in (3,) * 5),
    biases=tuple((jnp.zeros(3),) for _ in widths[:5]),
    heads=tuple(jnp.ones(3) for _ in range(5)),
  )
  a = jnp.asarray(random(1, 16, 16, 3))
  value, gradient = jax.jit(jax.value_and_grad(lambda x: dead(x, a + 1).sum()))(a)
  assert value == 0 and (gradient == 0).all()


def test_unfit_perceptual_weights_are_named(tmp_path):
  path = tmp_path / 'vgg.safetensors'
  with pytest.raises(InputError, match=r'no perceptual weights at .*vgg.safetensors'):
    load_perceptual(path)
  path.write_bytes(b'nothing')
  with pytest.raises(InputError, match=r'vgg.safetensors is not a safetensors file'):
    load_perceptual(path)
  safetensors.numpy.save_file({'features.0.weight': random(64, 3, 5, 5)}, path)
  with pytest.raises(InputError, match=r'features.0.weight is \(64, 3, 5, 5\), expected'):
    load_perceptual(path)
  safetensors.numpy.save_file({'features.0.weight': random(64, 3, 3, 3)}, path)
  with pytest.raises(InputError, match=r'lacks the tensor features.2.weight'):
    load_perceptual(path)


@pytest.fixture(scope='module')
def judge():
  return Discriminator(8, layers=2, rngs=nnx.Rngs(jax.random.key(0, impl='unsafe_rbg')))


def test_each_adversarial_loss_moves_one_network(judge):
  real, fake = jnp.asarray(random(1, 3, 16, 16, 3)), jnp.asarray(random(1, 3, 16, 16, 3, seed=1))

  @jax.jit
  def gradients(judge, fake):
    of_generator = jax.grad(generator_loss, argnums=(0, 1))(judge, fake)
    of_judge = jax.grad(discriminator_loss, argnums=(0, 2))(judge, real, fake)
    both = jax.grad(
      lambda d, f: generator_loss(d, f) + discriminator_loss(d, real, f), argnums=(0, 1)
    )(judge, fake)
    return of_generator, of_judge, both

  of_generator, of_judge, both = gradients(judge, fake)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(of_generator[0]))
  kernels = [leaf for leaf in jax.tree.leaves(of_judge[0]) if leaf.ndim > 1]
  assert len(kernels) == 6 and all(jnp.abs(leaf).max() > 0 for leaf in kernels)
  assert (of_judge[1] == 0).all() and jnp.abs(of_generator[1]).max() > 0
  for one, sum_ in zip(jax.tree.leaves(of_judge[0]), jax.tree.leaves(both[0]), strict=True):
    np.testing.assert_allclose(one, sum_, atol=1e-6)
  np.testing.assert_allclose(of_generator[1], both[1], atol=1e-6)


def test_hinge_losses(judge):
  video = jnp.asarray(random(1, 2, 16, 16, 3))
  judge = jax.tree.map(lambda leaf: leaf, judge)
  judge.head.kernel[...] *= 0
  assert jax.jit(Discriminator.__call__)(judge, video).shape == (1, 2, 4, 4)
  for logit, of_judge in ((0.25, 0.5 * (0.75 + 1.25)), (2.0, 0.5 * 3), (-3.0, 0.5 * 4)):
    judge.head.bias[...] = jnp.full(1, logit)
    assert generator_loss(judge, video) == pytest.approx(-logit)
    assert discriminator_loss(judge, video, video) == pytest.approx(of_judge)
