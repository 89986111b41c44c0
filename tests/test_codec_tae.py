"""The temporal autoencoder: its size, its image part, any length, and tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.codecs.tiling import blended, in_pieces, windows
from ttm_jax.errors import InputError

SMALL = {'channels': 3, 'base_channels': 8, 'multipliers': (1, 2, 2), 'res_blocks': 1}


def small(temporal_downsamples=2, shaken=False, **options):
  """A TAE as initialised, or with every weight moved off its initial value."""
  config = TAEConfig(temporal_downsamples=temporal_downsamples, **(SMALL | options))
  codec = TAE(config, rngs=nnx.Rngs(0))
  if shaken:
    leaves, treedef = jax.tree.flatten(codec)
    rng = np.random.default_rng(1)
    noisy = [leaf + jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32) for leaf in leaves]
    codec = jax.tree.unflatten(treedef, noisy)
  return codec


def video(frames, seed=0, size=8):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, (1, frames, size, size, 3)), jnp.float32)


encode = jax.jit(lambda codec, pixels: codec.encode(pixels))
decode = jax.jit(lambda codec, latents, frames: codec.decode(latents, frames), static_argnums=2)


def test_full_size():
  codec = nnx.eval_shape(lambda: TAE(TAEConfig(), rngs=nnx.Rngs(0)))
  leaves = jax.tree.leaves_with_path(nnx.state(codec, nnx.Param))
  sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
  temporal = sum(size for path, size in sizes.items() if 'temporal' in path)
  print(f'TAE: {sum(sizes.values())} parameters, {temporal} of them in time')
  # Stable Diffusion's autoencoder has 83 653 863; 72 + 20 of them are quantisation convolutions,
  # and 16 channels in place of 4 add 24 outputs to the encoder and 12 inputs to the decoder.
  image = 83_653_863 - 92 + 24 * (9 * 512 + 1) + 12 * 9 * 512
  assert sum(sizes.values()) - temporal == image == 83_819_683
  assert sum(sizes.values()) == 114_062_049
  assert codec.config.stride == (8, 8) and codec.stride == (8, 8) and codec.channels == 16


def test_initially_frames_are_processed_one_by_one():
  codec = small(temporal_downsamples=0)
  pixels = video(3)
  latents = encode(codec, pixels).mean
  for i in range(3):
    np.testing.assert_allclose(latents[:, [i]], encode(codec, pixels[:, [i]]).mean, atol=1e-5)
  shown = decode(codec, latents, 3)
  for i in range(3):
    np.testing.assert_allclose(shown[:, [i]], decode(codec, latents[:, [i]], 1), atol=1e-5)


def test_initially_a_latent_is_that_of_the_first_frame_of_its_group():
  codec = small()
  pixels = video(6)
  latents = encode(codec, pixels).mean
  firsts = encode(codec, pixels[:, [0]]).mean, encode(codec, pixels[:, [4]]).mean
  np.testing.assert_allclose(latents, jnp.concatenate(firsts, 1), atol=1e-5)
  np.testing.assert_array_equal(codec.frame_groups(6), [0, 0, 0, 0, 1, 1])


def test_a_video_without_change_is_the_picture_it_is():
  codec = small(shaken=True)
  picture = encode(codec, video(1))
  still = encode(codec, video(1).repeat(7, axis=1))
  assert still.mean.shape == (1, 2, 2, 2, 3)
  for ours, theirs in ((still.mean, picture.mean), (still.logvar, picture.logvar)):
    np.testing.assert_allclose(ours, theirs.repeat(2, axis=1), atol=1e-4)
  shown = decode(codec, still.mean, 7)
  np.testing.assert_allclose(shown, decode(codec, picture.mean, 1).repeat(7, axis=1), atol=1e-4)
  assert float(jnp.std(shown)) > 0.1


@pytest.mark.parametrize('frames', [1, 3, 4, 5])
def test_any_length_encodes_and_comes_back(frames):
  codec = small(shaken=True)
  latents = encode(codec, video(frames)).mean
  assert latents.shape == (1, codec.frame_groups(frames)[-1] + 1, 2, 2, 3)
  every = decode(codec, latents, 4 * latents.shape[1])
  np.testing.assert_allclose(decode(codec, latents, frames), every[:, :frames], atol=1e-5)
  with pytest.raises(ValueError, match='are not those of'):
    codec.decode(latents, frames + 4)


def test_every_weight_learns():
  codec = small(shaken=True)

  @jax.jit
  def gradients(codec):
    def loss(codec):
      shown, posterior, latents = codec.reconstruct(video(6), jax.random.key(0))
      return jnp.square(shown - video(6)).sum() + jnp.square(latents - posterior.mean).sum()

    return jax.grad(loss)(codec)

  found = gradients(codec)
  for path, leaf in jax.tree.leaves_with_path(nnx.state(found, nnx.Param)):
    assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 1e-5, jax.tree_util.keystr(path)


def test_folded_pixels_keep_their_places():
  codec = small(temporal_downsamples=0, patch=2)
  assert codec.stride == (8, 8)
  captured = []
  codec.encoder.conv_in = lambda x: captured.append(x) or jnp.zeros((*x.shape[:-1], 8))
  codec.encode(video(1))
  folded = captured[0]
  assert folded.shape == (1, 1, 4, 4, 12)
  expected = video(1)[0, 0, 2:4, 6:8].reshape(-1)
  np.testing.assert_array_equal(folded[0, 0, 1, 3], expected)
  codec.decoder.conv_out = lambda x: jnp.tile(folded, (1, 1, x.shape[2] // 4, x.shape[3] // 4, 1))
  np.testing.assert_array_equal(codec.decode(jnp.zeros((1, 1, 1, 1, 3)), 1), video(1))


def test_normalisation_is_measured_and_changes_no_pixels():
  codec = small(shaken=True)
  clips = [
    np.random.default_rng(i).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8) for i in (1, 2)
  ]
  codec.shift[...], codec.scale[...] = jnp.zeros(3), jnp.ones(())
  pixels = video(4, size=16)
  before = decode(codec, encode(codec, pixels).mean, 4)
  codec.normalise(clips)
  after = decode(codec, encode(codec, pixels).mean, 4)
  np.testing.assert_allclose(after, before, atol=1e-4)
  moments = encode(codec, np.stack(clips).astype(np.float32) / 127.5 - 1)
  np.testing.assert_allclose(moments.mean.mean((0, 1, 2, 3)), 0, atol=1e-4)
  power = np.square(moments.mean).mean() + np.exp(moments.logvar).mean()
  assert power == pytest.approx(1, rel=1e-4)
  assert not isinstance(codec.shift, nnx.Param) and not isinstance(codec.scale, nnx.Param)


def test_weights_are_arguments_of_a_jitted_function():
  traces = []

  def run(codec, pixels):
    traces.append(1)
    return codec.encode(pixels).mean

  plain, of_nnx = jax.jit(run), nnx.jit(run)
  codec = small(shaken=True)
  np.testing.assert_allclose(plain(codec, video(2)), of_nnx(codec, video(2)), atol=1e-5)
  first = plain(codec, video(2))
  codec.shift[...] += 1
  np.testing.assert_allclose(plain(codec, video(2)), first - codec.scale[...], atol=1e-4)
  assert len(traces) == 2


def test_bfloat16_computes_the_same_up_to_its_precision():
  exact, rounded = small(shaken=True), small(shaken=True, dtype='bfloat16')
  ours, theirs = encode(rounded, video(4)).mean, encode(exact, video(4)).mean
  assert ours.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype('float32')}
  assert 1e-4 < float(jnp.abs(ours - theirs).max() / theirs.std()) < 0.2


def test_long_videos_are_encoded_in_pieces_and_decoded_in_tiles():
  # As initialised the network is local in time, so that tiles must change nothing.
  whole, tiled = small(), small(tile=(16, 16, 16))
  pixels = video(38)
  latents = encode(whole, pixels).mean
  np.testing.assert_allclose(encode(tiled, pixels).mean, latents, atol=1e-5)
  np.testing.assert_allclose(decode(tiled, latents, 38), decode(whole, latents, 38), atol=1e-5)
  # With other weights constant latents must still show one picture, without a seam.
  tiled = small(shaken=True, tile=(16, 16, 16))
  constant = jnp.broadcast_to(latents[:, :1], latents.shape)
  shown = decode(tiled, constant, 38)
  np.testing.assert_allclose(shown, decode(tiled, constant[:, :1], 1).repeat(38, 1), atol=1e-5)


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
  latents = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 6, 2)), jnp.float32)
  seen = []

  def enlarge(x):
    seen.append(x.shape)
    return x.repeat(2, 1).repeat(3, 2).repeat(4, 3)

  shown = blended(enlarge, latents, (2, 4, 8), (1, 1, 2), (2, 3, 4))
  np.testing.assert_allclose(shown, enlarge(latents), atol=1e-6)
  assert set(seen[:-1]) == {(2, 2, 4, 6, 2)}
  pieces = in_pieces(lambda x: 2 * x[:, ::2], latents, 2)
  np.testing.assert_array_equal(pieces, 2 * latents[:, ::2])


@pytest.mark.parametrize(
  'options, message',
  [
    ({'temporal_downsamples': 3}, '3 levels have 2 halvings'),
    ({'base_channels': 6}, 'a level of width 6'),
    ({'multipliers': (1, 17)}, 'a level of width 136'),
    ({'dtype': 'float16'}, 'got float16'),
    ({'tile': (12, 64, 64)}, 'must divide by 8 frames and 16 pixels'),
  ],
)
def test_impossible_sizes_are_refused(options, message):
  with pytest.raises(InputError, match=message):
    TAEConfig(**(SMALL | {'temporal_downsamples': 1 if 'multipliers' in options else 2} | options))


def test_pixels_that_do_not_divide_are_refused():
  with pytest.raises(InputError, match='height 10 is no multiple of the codec stride 4'):
    small().encode(video(1, size=10))
