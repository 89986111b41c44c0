"""The autoencoders of Wan: pieces and tiles against the whole, frame counts, sizes."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.helpers.small_wan_vae import CONFIGS, abstract, decode, drawn, encode, video
from ttm_jax.codecs import wan_vae
from ttm_jax.codecs.registry import ENTRIES, entry_of
from ttm_jax.codecs.wan_vae import WAN21, WAN22, WanVAEConfig
from ttm_jax.errors import InputError

NAMES = sorted(CONFIGS)


def relative(got, wanted):
  return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
  'config, count, channels, stride',
  [(WAN21, 126_892_531, 16, 8), (WAN22, 704_688_668, 48, 16)],
  ids=['2.1', '2.2'],
)
def test_full_size(config, count, channels, stride):
  codec = abstract(config)
  assert sum(x.size for x in jax.tree.leaves(codec)) == count
  assert codec.channels == channels and codec.stride == (stride, stride)
  clip = jax.ShapeDtypeStruct((1, 17, 64, 96, 3), np.float32)
  moments = jax.eval_shape(lambda codec, x: codec.encode(x), codec, clip)
  assert moments.mean.shape == moments.logvar.shape == (1, 5, 64 // stride, 96 // stride, channels)
  shown = jax.eval_shape(lambda codec, x: codec.decode(x, 17), codec, moments.mean)
  assert shown.shape == clip.shape and shown.dtype == np.float32


def test_frame_counts():
  codec = abstract(WAN21)
  assert codec.frame_groups(9).tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]
  assert codec.frame_groups(1).tolist() == [0]
  for latents in (1, 2, 32):
    assert codec.frame_groups(codec.num_frames(latents))[-1] == latents - 1
  assert codec.num_frames(32) == 125
  for count, nearest in ((128, '125 or 129'), (2, '1 or 5'), (80, '77 or 81')):
    wanted = rf'{count} frames do not fit the codec, which takes 4 n \+ 1 frames: use {nearest}$'
    with pytest.raises(InputError, match=wanted):
      codec.frame_groups(count)
  with pytest.raises(InputError, match=r'8 frames do not fit .* use 5 or 9'):
    codec.encode(np.zeros((1, 8, 16, 16, 3), np.float32))
  with pytest.raises(InputError, match='height 12 is not a multiple of the codec stride 8'):
    codec.encode(np.zeros((1, 5, 12, 16, 3), np.float32))
  with pytest.raises(ValueError, match='2 latent frames are those of 5 frames, not of 8'):
    codec.decode(np.zeros((1, 2, 2, 2, 16), np.float32), 8)


@pytest.mark.parametrize('name', NAMES)
def test_pieces_give_the_whole(name):
  codec, pixels = drawn(CONFIGS[name]), video(9)
  config = codec.config

  @jax.jit
  def whole(codec, pixels):
    raw = codec.quant(codec.encoder(wan_vae.patches(pixels, config.patch))[0])
    mean = raw[..., : config.channels]
    shown = codec.decoder(codec.post_quant(mean))[0]
    return mean, wan_vae.unpatched(shown, config.patch)

  mean, shown = whole(codec, pixels)
  moments = encode(codec, pixels)
  std = np.float32(config.std)
  errors = [
    relative(moments.mean * std + np.float32(config.mean), mean),
    relative(decode(codec, moments.mean, 9), np.clip(shown, -1, 1)),
  ]
  print(f'{name}: pieces and the whole differ by {errors[0]:.1e} and {errors[1]:.1e}')
  assert max(errors) < 1e-5 and np.abs(shown).mean() > 0.1
  # A latent frame depends on the frames up to its own, the first on one frame alone.
  changed = pixels.copy()
  changed[:, 5:] *= -1
  later = encode(codec, changed).mean
  np.testing.assert_array_equal(later[:, :2], moments.mean[:, :2])
  assert np.abs(later[:, 2] - moments.mean[:, 2]).mean() > 0.02
  np.testing.assert_allclose(encode(codec, pixels[:, :1]).mean, moments.mean[:, :1], atol=1e-5)


def temporaries(function, codec, *shape):
  """Return the bytes of intermediate values of a compiled function of the codec."""
  x = jax.ShapeDtypeStruct(shape, np.float32)
  return jax.jit(function).lower(codec, x).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_a_piece():
  codec = abstract(CONFIGS['wan21_vae'])

  def slope(function, short, long):
    at = [temporaries(function, codec, 1, frames, 16, 16, 3) for frames in (short, long)]
    return (at[1] - at[0]) / (long - short)

  pieces = slope(lambda codec, x: codec.encode(x).mean, 9, 41)
  whole = slope(lambda codec, x: codec.encoder(x)[0], 9, 41)
  pixels = 16 * 16 * 3 * 4
  print(f'bytes a frame: {pieces:.0f} in pieces, {whole:.0f} at once; of pixels {pixels}')
  assert pieces < 4 * pixels < whole / 2


@pytest.mark.parametrize('name', NAMES)
def test_tiles_are_close_to_the_whole(name):
  pixels = video(5, 40, 48)
  whole = drawn(CONFIGS[name])
  tiled = drawn(dataclasses.replace(CONFIGS[name], tile=(32, 32)))
  latents = encode(whole, pixels).mean

  def drift(got, wanted):
    return float(np.sqrt(np.mean((got - wanted) ** 2)) / np.std(wanted))

  found = encode(tiled, pixels).mean
  shown, wanted = decode(tiled, latents, 5), decode(whole, latents, 5)
  errors = drift(found, latents), drift(shown, wanted)
  print(f'{name}: tiles and the whole differ by {errors[0]:.3f} and {errors[1]:.3f} (RMS)')
  assert found.shape == latents.shape and shown.shape == pixels.shape
  assert 0 < max(errors) < 0.3


def test_bfloat16():
  single = drawn(CONFIGS['wan22_vae'])
  half = drawn(dataclasses.replace(CONFIGS['wan22_vae'], dtype='bfloat16'))
  pixels = video(5)
  exact, found = encode(single, pixels), encode(half, pixels)
  assert found.mean.dtype == np.float32
  error = np.std(found.mean - exact.mean) / np.std(exact.mean)
  shown = decode(half, exact.mean, 5)
  other = np.std(shown - decode(single, exact.mean, 5)) / np.std(shown)
  print(f'relative error in bfloat16: latents {error:.4f}, pixels {other:.4f}')
  assert 1e-4 < error < 0.1 and 1e-4 < other < 0.1


@pytest.mark.parametrize('name', NAMES)
def test_the_registry_knows_the_generation(name):
  assert entry_of(abstract(CONFIGS[name])) is ENTRIES[name]


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'multipliers': (1, 2)}, 'at least three levels'),
    ({'res_blocks': 0}, 'one block are needed'),
    ({'mean': (0.0,) * 3}, 'mean of the latents must be 16 numbers'),
    ({'std': (float('nan'),) * 16}, 'std of the latents must be 16 numbers'),
    ({'std': (0.0,) * 16}, 'std of the latents must be above 0'),
    ({'dtype': 'float16'}, 'dtype must be float32 or bfloat16'),
    ({'tile': (1280, 1000)}, 'must divide by 32 pixels'),
    ({'decoder_channels': 9, 'multipliers': (1, 1, 1)}, 'widths must be even'),
    ({'residual': True, 'multipliers': (1, 3, 5)}, 'shortcuts cannot group the channels'),
  ],
)
def test_configurations_that_are_none(changes, message):
  with pytest.raises(InputError, match=message):
    WanVAEConfig(**changes)
