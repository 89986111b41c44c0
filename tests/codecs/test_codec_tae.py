"""The temporal autoencoder: parameter count, image part, any length, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.small_tae import SMALL, abstract, jit, small
from ttm_jax.codecs.base import to_float
from ttm_jax.codecs.patches import fold, unfold
from ttm_jax.codecs.tae import TAEConfig
from ttm_jax.codecs.tiling import blended, in_pieces, windows
from ttm_jax.errors import InputError

jit_encode = jit(lambda codec, pixels: codec.encode(pixels))
jit_decode = jit(lambda codec, latents, frames: codec.decode(latents, frames), static_argnums=2)


def encode(codec, pixels):
  return jax.device_get(jit_encode(codec, pixels))


def decode(codec, latents, frames):
  return jax.device_get(jit_decode(codec, latents, frames))


def video(frames, size=8):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (1, frames, size, size, 3)).astype(np.float32)


def test_full_size():
  codec = abstract(TAEConfig())
  leaves = jax.tree.leaves_with_path(nnx.state(codec, nnx.Param))
  sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
  temporal = sum(size for path, size in sizes.items() if 'temporal' in path)
  print(f'TAE: {sum(sizes.values())} parameters, {temporal} of them in time')
  # Stable Diffusion's autoencoder has 83,653,863; 72 + 20 are quantization convolutions. With
  # 16 channels instead of 4, the encoder has 24 more outputs and the decoder 12 more inputs.
  image = 83_653_863 - 92 + 24 * (9 * 512 + 1) + 12 * 9 * 512
  assert sum(sizes.values()) - temporal == image == 83_819_683
  assert sum(sizes.values()) == 114_062_049
  assert codec.config.stride == (8, 8) and codec.stride == (8, 8) and codec.channels == 16


def test_initially_frames_are_processed_one_by_one():
  codec = small('space', temporal_downsamples=0)
  latents = encode(codec, video(3)).mean
  singly = encode(codec, video(3).swapaxes(0, 1)).mean
  np.testing.assert_allclose(latents.swapaxes(0, 1), singly, atol=1e-5)
  shown = decode(codec, latents, 3)
  np.testing.assert_allclose(shown.swapaxes(0, 1), decode(codec, singly, 1), atol=1e-5)
  assert shown.std() > 0.01


def test_initially_a_latent_is_that_of_the_first_frame_of_its_group():
  codec = small('space')
  latents = encode(codec, video(5)).mean
  firsts = encode(codec, video(5)[0, ::2, None]).mean
  np.testing.assert_allclose(latents[0], firsts[:, 0], atol=1e-5)
  np.testing.assert_array_equal(codec.frame_groups(5), [0, 0, 1, 1, 2])
  full = abstract(TAEConfig())
  assert full.frame_groups(128).tolist() == [t // 8 for t in range(128)]
  clip = jax.ShapeDtypeStruct((1, 36, 64, 64, 3), np.float32)
  assert jax.eval_shape(jit_encode, full, clip).mean.shape == (1, 5, 8, 8, 16)


def test_a_video_without_change_is_the_picture_it_is():
  codec = small(shaken='all')
  picture = encode(codec, video(1))
  still = encode(codec, video(1).repeat(5, axis=1))
  for ours, theirs in ((still.mean, picture.mean), (still.logvar, picture.logvar)):
    assert ours.shape == (1, 3, 4, 4, 3)
    np.testing.assert_allclose(ours, theirs.repeat(3, axis=1), atol=1e-4)
  shown = decode(codec, still.mean, 5)
  np.testing.assert_allclose(shown, decode(codec, picture.mean, 1).repeat(5, axis=1), atol=1e-4)
  assert shown.std() > 0.1


def test_any_length_encodes_and_comes_back():
  codec = small(shaken='all')
  for frames in (1, 2, 3, 7, 8):
    shape = jax.eval_shape(jit_encode, codec, video(frames)).mean.shape
    assert shape[1] == codec.frame_groups(frames)[-1] + 1 == (frames + 1) // 2
  latents = encode(codec, video(5)).mean
  every = jit(lambda codec, z: codec.decoder(z / codec.scale + codec.shift))(codec, latents)
  assert every.shape[1] == 6
  np.testing.assert_allclose(decode(codec, latents, 5), every[:, :5].clip(-1, 1), atol=1e-5)
  with pytest.raises(ValueError, match='3 latent frames of 2 are not those of 7 frames'):
    codec.decode(latents, 7)


def test_every_weight_learns():
  codec = small(shaken='all')

  @jit
  def gradients(codec):
    def loss(codec):
      shown, posterior, latents = codec.reconstruct(video(5), jax.random.key(0))
      return jnp.square(shown - video(5)).sum() + jnp.square(latents - posterior.mean).sum()

    return jax.grad(loss)(codec)

  found = jax.device_get(nnx.state(gradients(codec), nnx.Param))
  for path, leaf in jax.tree.leaves_with_path(found):
    assert 1e-5 < np.abs(leaf).max() < np.inf, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_gradients_do_not_depend_on_what_is_kept():
  video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 4, 16, 16, 3)), jnp.float32)

  def loss(params, remat):
    graphdef, _, rest = nnx.split(small('all', remat=remat), nnx.Param, ...)
    codec = nnx.merge(graphdef, params, rest)
    return (codec.reconstruct(video, jax.random.key(0))[0] ** 2).mean()

  params = nnx.state(small('all'), nnx.Param)

  def kept(remat):
    found = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, remat), p)[1], params)
    return sum(x.size for x in jax.tree.leaves(found))

  assert kept('full') < 0.5 * kept('none')
  exact, again = (jit(jax.grad(loss), static_argnums=1)(params, x) for x in ('none', 'full'))
  for x, y in zip(jax.tree.leaves(exact), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(np.abs(x).max(), 1e-6))


def test_folded_pixels_keep_their_places():
  folded = fold(video(2), (1, 4, 4))
  assert folded.shape == (1, 2, 2, 2, 48)
  np.testing.assert_array_equal(folded[0, 1, 1, 0], video(2)[0, 1, 4:, :4].reshape(-1))
  np.testing.assert_array_equal(unfold(folded, (1, 4, 4)), video(2))
  cells = fold(video(3), (2, 4, 4))
  assert cells.shape == (1, 2, 2, 2, 96)
  np.testing.assert_array_equal(cells[0, 0, 1, 0, 48:], video(3)[0, 1, 4:, :4].reshape(-1))
  last = unfold(cells, (2, 4, 4))
  np.testing.assert_array_equal(last[:, :3], video(3))
  np.testing.assert_array_equal(last[:, 3], video(3)[:, 2])  # Padded with the last frame.
  codec = abstract(TAEConfig(**SMALL, patch=2))
  assert codec.stride == (4, 4)
  latents = jax.eval_shape(jit_encode, codec, video(3)).mean
  assert latents.shape == (1, 2, 2, 2, 3)
  assert jax.eval_shape(lambda c, z: c.decode(z, 3), codec, latents).shape == (1, 3, 8, 8, 3)


def test_normalisation_is_measured_and_changes_no_pixels():
  codec = small(shaken='all')
  before = decode(codec, encode(codec, video(5)).mean, 5)
  clips = np.random.default_rng(1).integers(0, 256, (2, 5, 8, 8, 3)).astype(np.uint8)
  codec.normalize(clips)
  after = decode(codec, encode(codec, video(5)).mean, 5)
  np.testing.assert_allclose(after, before, atol=1e-4)
  moments = [encode(codec, to_float(clip)[None]) for clip in clips]
  means = np.concatenate([m.mean for m in moments]).astype(np.float64)
  np.testing.assert_allclose(means.mean((0, 1, 2, 3)), 0, atol=1e-4)
  power = np.square(means).mean() + np.mean([np.exp(m.logvar).mean() for m in moments])
  assert power == pytest.approx(1, rel=1e-4)
  assert not isinstance(codec.shift, nnx.Param) and not isinstance(codec.scale, nnx.Param)


def test_weights_are_arguments_of_a_jitted_function():
  traces = []

  def run(codec, pixels):
    traces.append(1)
    return codec.encode(pixels).mean

  plain, of_nnx = jit(run), nnx.jit(run)
  codec = small(shaken='all')
  first = plain(codec, video(1))
  np.testing.assert_allclose(first, of_nnx(codec, video(1)), atol=1e-5)
  codec.shift[...] += 1
  np.testing.assert_allclose(plain(codec, video(1)), first - codec.scale[...], atol=1e-4)
  assert len(traces) == 2


def test_bfloat16_computes_the_same_up_to_its_precision():
  exact, rounded = small(shaken='all'), small(shaken='all', dtype='bfloat16')
  ours, theirs = encode(rounded, video(5)).mean, encode(exact, video(5)).mean
  assert ours.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype('float32')}
  assert 1e-4 < np.abs(ours - theirs).max() / theirs.std() < 0.2


def test_long_videos_are_encoded_in_pieces_and_decoded_in_tiles():
  # With the initial temporal weights the network is local in time, so that tiles change nothing.
  whole, tiled = small('space'), small('space', tile=(4, 8, 8))
  latents = encode(whole, video(13)).mean
  np.testing.assert_allclose(encode(tiled, video(13)).mean, latents, atol=1e-5)
  np.testing.assert_allclose(decode(tiled, latents, 13), decode(whole, latents, 13), atol=1e-5)
  # With other weights, constant latents must still decode to one image without a seam.
  shown = decode(small(shaken='all', tile=(4, 8, 8)), latents[:, :1].repeat(7, 1), 13)
  np.testing.assert_allclose(shown, shown[:, :1].repeat(13, 1), atol=1e-4)
  assert shown.std() > 0.1


def test_windows_ramp_linearly_and_sum_to_one():
  starts, weights = windows(size=8, tile=4, overlap=2, factor=3)
  assert starts.tolist() == [0, 2, 4]
  rising = np.arange(1, 7) / 7
  np.testing.assert_allclose(weights[1], [*rising, *rising[::-1]])
  np.testing.assert_allclose(weights[0], [1] * 6 + list(rising[::-1]))
  starts, weights = windows(size=7, tile=4, overlap=2, factor=1)
  assert starts.tolist() == [0, 2, 3]
  total = np.zeros(7)
  for start, weight in zip(starts, weights, strict=True):
    total[start : start + 4] += weight
  np.testing.assert_allclose(total, 1, atol=1e-12)


def test_tiles_in_space_land_where_they_belong():
  latents = np.random.default_rng(0).normal(size=(2, 5, 7, 6, 2)).astype(np.float32)
  seen = []

  def enlarge(x):
    seen.append(x.shape)
    return x.repeat(2, 1).repeat(3, 2).repeat(4, 3)

  shown = blended(enlarge, latents, (2, 4, 8), (1, 1, 2), (2, 3, 4))
  assert set(seen) == {(2, 2, 4, 6, 2)}
  np.testing.assert_allclose(shown, enlarge(latents), atol=1e-6)
  pieces = in_pieces(lambda x: 2 * x[:, ::2], latents, 2)
  np.testing.assert_array_equal(pieces, 2 * latents[:, ::2])


@pytest.mark.parametrize(
  'options, message',
  [
    ({'temporal_downsamples': 2}, '2 levels have 1 halvings'),
    ({'base_channels': 6}, 'a level of width 6'),
    ({'multipliers': (1, 17)}, 'a level of width 136'),
    ({'dtype': 'float16'}, 'got float16'),
    ({'tile': (6, 64, 64)}, 'must divide by 4 frames and 8 pixels'),
  ],
)
def test_impossible_sizes_are_refused(options, message):
  with pytest.raises(InputError, match=message):
    TAEConfig(**(SMALL | options))


def test_pixels_that_do_not_divide_are_refused():
  with pytest.raises(InputError, match='height 9 is not a multiple of the codec stride 2'):
    small().encode(video(1, size=9))
