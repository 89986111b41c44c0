"""The linear codec against principal components computed in another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttm_jax.codecs.base import to_float
from ttm_jax.codecs.linear import LinearCodec, folding
from ttm_jax.errors import InputError

PATCH = (2, 4, 3)


def videos(count=6, seed=0, frames=4, size=(8, 9)):
  """Return smooth random videos, whose patches have a spectrum like that of images."""
  rng = np.random.default_rng(seed)
  t, y, x = np.meshgrid(*[np.arange(n) for n in (frames, *size)], indexing='ij')
  waves = []
  for _ in range(count):
    a = rng.normal(size=(3, 5))
    pixels = [
      128 + 90 * np.sin(w[0] * x / 4 + w[1] * y / 4 + w[2] * t + 3 * w[3]) * np.tanh(w[4])
      for w in a
    ]
    waves.append(np.stack(pixels, -1) + rng.normal(0, 4, (frames, *size, 3)))
  return np.clip(waves, 0, 255).astype(np.uint8)


def rows_of(clips):
  """Cut patches with loops: float64 [N, values], in the order time, row, column."""
  st, sh, sw = PATCH
  rows = []
  for clip in np.asarray(clips, np.float64) / 127.5 - 1:
    for t in range(0, clip.shape[0], st):
      for y in range(0, clip.shape[1], sh):
        for x in range(0, clip.shape[2], sw):
          rows.append(clip[t : t + st, y : y + sh, x : x + sw].ravel())
  return np.array(rows)


@pytest.fixture(scope='module')
def codec():
  return LinearCodec.fit(videos(), PATCH, channels=5)


def test_components_are_those_of_a_singular_value_decomposition(codec):
  rows = rows_of(videos())
  centered = rows - rows.mean(0)
  _, singular, vt = np.linalg.svd(centered, full_matrices=False)
  for ours, theirs in zip(np.asarray(codec.basis).T, vt, strict=False):
    assert abs(ours @ theirs) == pytest.approx(1, abs=1e-4)
    assert ours[np.abs(ours).argmax()] > 0
  assert codec.explained == pytest.approx((singular[:5] ** 2).sum() / (singular**2).sum(), rel=1e-6)
  latents = codec.encode(to_float(videos())).mean
  expected = centered @ np.asarray(codec.basis, np.float64) * float(codec.scale)
  np.testing.assert_allclose(np.asarray(latents).reshape(-1, 5), expected, atol=2e-4)


def test_latents_have_unit_size_but_keep_their_proportions(codec):
  latents = np.asarray(codec.encode(to_float(videos())).mean, np.float64).reshape(-1, 5)
  np.testing.assert_allclose(latents.mean(0), 0, atol=1e-4)
  assert np.square(latents).mean() == pytest.approx(1, rel=1e-4)
  powers = np.square(latents).mean(0)
  assert (np.diff(powers) < 0).all() and powers[0] > 2 * powers[-1]


def test_reported_quality_is_that_of_the_round_trip(codec):
  pixels = to_float(videos())
  back = np.asarray(codec.decode(codec.encode(pixels).mean, 4), np.float64)
  measured = 10 * np.log10(4 / np.square(back - pixels).mean())
  # Clipping improves the measured PSNR slightly.
  assert codec.psnr == pytest.approx(measured, abs=0.3)


def test_all_components_lose_nothing():
  whole = LinearCodec.fit(videos(), PATCH, channels=72)
  pixels = to_float(videos(seed=9))
  back = whole.decode(whole.encode(pixels).mean, 4)
  np.testing.assert_allclose(back, pixels, atol=1e-5)
  assert (whole.channels, whole.stride) == (72, (4, 3))


LAPPED = (2, 4, 6)


def lapped(channels, seed=0):
  return LinearCodec.fit(videos(seed=seed, size=(12, 18)), LAPPED, channels, lapped=True)


def test_a_lapped_codec_with_all_components_loses_nothing():
  pixels = to_float(videos(seed=9, size=(12, 18)))
  whole = lapped(144)
  np.testing.assert_allclose(whole.decode(whole.encode(pixels).mean, 4), pixels, atol=1e-5)


def test_patches_of_a_lapped_codec_overlap_by_half():
  codec = lapped(144)
  pixels = np.zeros((1, 4, 12, 18, 3), np.float32)
  touched = pixels.copy()
  touched[0, 0, 4, 9, 1] = 1  # Next to a border of rows, and nearer to the right of its patch.
  change = np.abs(codec.encode(touched).mean - codec.encode(pixels).mean).sum(-1)
  assert np.argwhere(change > 1e-6).tolist() == [[0, 0, y, x] for y in (0, 1) for x in (1, 2)]


def test_the_folding_keeps_energy_and_the_pixels_at_the_middle_of_patches_most():
  matrix = folding(6)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-6)
  strengths = np.diag(matrix)
  np.testing.assert_allclose(strengths, np.cos(np.pi / 4 * np.array([1, 3, 5, 5, 3, 1]) / 6))


def test_errors_of_latents_show_smaller_edges_between_patches_of_a_lapped_codec():
  size = (24, 24)
  noise = np.random.default_rng(1).normal(size=(64, 2, 4, 4, 12))
  ratios = []
  for overlap in (False, True):
    codec = LinearCodec.fit(videos(40, size=size), (2, 6, 6), 12, lapped=overlap)
    errors = np.asarray(codec.decode(0.2 * noise, 4) - codec.decode(0 * noise, 4))
    steps = np.square(np.diff(errors, axis=3)).mean((0, 1, 2, 4))
    ratios.append(steps[[5, 11, 17]].mean() / steps[[2, 8, 14]].mean())  # At borders and between.
  assert ratios[1] < ratios[0] / 3


def test_a_lapped_codec_needs_even_patches():
  with pytest.raises(InputError, match=r'a patch \(2, 4, 3\) cannot be lapped'):
    LinearCodec.fit(videos(), PATCH, 5, lapped=True)


def test_a_pixel_moves_the_latent_that_covers_it(codec):
  pixels = np.zeros((1, 4, 8, 9, 3), np.float32)
  touched = pixels.copy()
  touched[0, 3, 2, 7, 1] = 1
  change = np.abs(codec.encode(touched).mean - codec.encode(pixels).mean).sum(-1)
  assert np.argwhere(change > 1e-6).tolist() == [[0, 1, 0, 2]]
  np.testing.assert_array_equal(codec.frame_groups(5), [0, 0, 1, 1, 2])


def test_short_clips_are_continued_by_their_last_frame(codec):
  pixels = to_float(videos(1))
  still = codec.encode(pixels[:, :1]).mean
  np.testing.assert_allclose(still, codec.encode(pixels[:, [0, 0]]).mean, atol=1e-6)
  three = codec.encode(pixels[:, :3]).mean
  np.testing.assert_allclose(three, codec.encode(pixels[:, [0, 1, 2, 2]]).mean, atol=1e-6)
  assert codec.decode(three, 3).shape[1] == 3
  np.testing.assert_allclose(codec.decode(three, 3), codec.decode(three, 4)[:, :3])
  with pytest.raises(ValueError, match='2 latent frames of 2 are not those of 5 frames'):
    codec.decode(three, 5)


def test_decoded_pixels_stay_in_range(codec):
  video = codec.decode(jnp.full((1, 1, 1, 1, 5), 1e3), 2)
  assert float(video.max()) == 1 and float(video.min()) == -1


def test_weights_are_arguments_of_a_jitted_function(codec):
  traces = []

  @jax.jit
  def encode(codec, video):
    traces.append(1)
    return codec.encode(video).mean

  pixels = to_float(videos(1))
  np.testing.assert_allclose(encode(codec, pixels), codec.encode(pixels).mean, atol=1e-5)
  doubled = encode(codec.replace(scale=2 * codec.scale), pixels)
  np.testing.assert_allclose(doubled, 2 * codec.encode(pixels).mean, atol=1e-5)
  assert len(traces) == 1


@pytest.mark.parametrize(
  'clips, channels, message',
  [
    ([], 5, 'no videos'),
    ([np.zeros((2, 8, 8, 3), np.uint8)], 5, 'width 8 is not a multiple of the codec stride 3'),
    ([np.zeros((2, 8, 9, 3), np.float32)], 5, 'must be uint8, got float32'),
    ([np.zeros((2, 8, 9, 3), np.uint8)], 5, 'one constant patch'),
    (videos(), 73, 'has 72 values'),
  ],
)
def test_unfit_videos_are_refused(clips, channels, message):
  with pytest.raises(InputError, match=message):
    LinearCodec.fit(clips, PATCH, channels)
