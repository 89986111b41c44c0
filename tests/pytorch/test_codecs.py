"""The temporal autoencoder and the linear codec in PyTorch and in JAX."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.helpers import pytorch_parity as parity
from tests.helpers.small_tae import SMALL, abstract, initial, small
from ttm_jax.codecs import linear_convert, tae_convert
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.tae import TAEConfig
from ttm_jax.errors import InputError
from ttm_jax.pretrained.names import export_tensors
from ttm_jax.pretrained.weights import read
from ttm_jax.pytorch.linear import TTMLinearCodec
from ttm_jax.pytorch.tae import TTMTemporalAutoencoder

jit = functools.partial(
  jax.jit,
  compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True},
)
jit_encode = jit(lambda codec, pixels: codec.encode(pixels))
jit_decode = jit(lambda codec, latents, frames: codec.decode(latents, frames), static_argnums=2)

# Other shapes: folded pixels, no temporal layers, three levels.
IMAGE = TAEConfig(
  channels=2,
  base_channels=4,
  multipliers=(1, 3, 2),
  res_blocks=1,
  temporal_downsamples=0,
  patch=2,
  tile=(4, 64, 64),
  inflated=False,
)

PATCHES = TAEConfig(**SMALL, patch=2, tile=(4, 16, 16), linear_path=True)


def trained(**options):
  """Return the small TAE of the tests with random weights and normalized latents."""
  codec = small('all', **options)
  codec.shift[...] = jnp.asarray([0.1, -0.2, 0.3])
  codec.scale[...] = jnp.asarray(1.7)
  return codec


def drawn_at_random(config):
  rng = np.random.default_rng(0)
  leaves, structure = jax.tree.flatten(abstract(config))
  means = [0.5 if x.ndim < 2 else 0 for x in leaves]  # Means of 0 keep sums of products small.
  drawn = [
    jnp.asarray(mean + 0.2 * rng.normal(size=x.shape), jnp.float32)
    for mean, x in zip(means, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, drawn)


def module(codec):
  model = TTMTemporalAutoencoder(**tae_convert.config_to_torch(codec.config))
  tensors = export_tensors(tae_convert.table(codec.config), tae_convert.parameters(codec))
  model.load_state_dict({name: parity.tensor(x) for name, x in tensors.items()})
  return model


def video(batch, frames, height, width):
  shape = (batch, frames, height, width, 3)
  return np.random.default_rng(frames).uniform(-1, 1, shape).astype(np.float32)


def shapes_and_codecs():
  """Return a default case, and one whose videos exceed the tiles along every axis."""
  yield 'a picture', trained(), (2, 1, 8, 12)
  yield 'an odd length', trained(), (1, 5, 8, 8)
  yield 'tiles', trained(tile=(4, 8, 8)), (2, 7, 12, 16)
  yield 'an image autoencoder', drawn_at_random(IMAGE), (1, 3, 16, 8)
  yield 'a linear path', drawn_at_random(PATCHES), (2, 7, 16, 24)


@pytest.mark.parametrize('case', range(5))
@torch.no_grad()
def test_tae_is_ours(case):
  name, codec, shape = list(shapes_and_codecs())[case]
  model, pixels = module(codec), video(*shape)
  wanted = jit_encode(codec, pixels)
  found = model.encode(parity.channels_first(pixels)).latent_dist
  errors = [
    parity.drift(parity.channels_last(x), y)
    for x, y in ((found.mode(), wanted.mean), (found.logvar, wanted.logvar))
  ]
  shown = jit_decode(codec, wanted.mean, shape[1])
  assert np.std(shown) > 0.1
  for frames in {shape[1], None}:
    got = model.decode(parity.channels_first(wanted.mean), frames).sample
    assert got.shape[2] == (frames or wanted.mean.shape[1] * codec.config.stride[0])
    errors.append(parity.drift(parity.channels_last(got)[:, : shape[1]], shown))
  print(f'{name}: means {errors[0]:.1e}, logvar {errors[1]:.1e}, pixels {errors[2]:.1e}')
  assert max(errors) < 1e-4


@torch.no_grad()
def test_memory_options():
  model = module(trained(tile=(4, 8, 8)))
  pixels = parity.channels_first(video(2, 9, 12, 12))
  latents, shown = model.encode(pixels).latent_dist.mode(), None
  whole = model.decode(latents, 9).sample
  model.enable_slicing()
  torch.testing.assert_close(model.encode(pixels).latent_dist.mode(), latents)
  torch.testing.assert_close(model.decode(latents, 9).sample, whole)
  calls = []
  model.decoder.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
  model.enable_tiling((8, 16, 16))
  assert model.decode(latents, 9).sample.shape == whole.shape
  assert calls == [(1, 3, 4, 6, 6)] * 4  # Two tiles in time for each of two samples.
  model.disable_slicing()
  model.disable_tiling()
  calls.clear()
  shown = model.decode(latents, 9).sample
  assert calls == [(2, 3, 5, 6, 6)]
  model.enable_tiling()
  assert tuple(model.tile) == (4, 8, 8)
  tiled = model.decode(latents, 9).sample
  torch.testing.assert_close(tiled, whole)
  assert (tiled - shown).abs().max() > 1e-3  # Tiles see less context.
  with pytest.raises(ValueError, match=r'must divide by 4 frames, 8 pixels'):
    model.enable_tiling((4, 8, 12))


def test_tae_in_half_precision_drifts_as_ours():
  single, half = trained(), trained(dtype='bfloat16')
  pixels = video(1, 5, 8, 8)
  exact, ours = (np.asarray(jit_encode(codec, pixels).mean) for codec in (single, half))
  model = module(single).to(torch.bfloat16)
  with torch.no_grad():
    theirs = parity.channels_last(model.encode(parity.channels_first(pixels)).latent_dist.mode())
  errors = [np.std(x - exact) / np.std(exact) for x in (ours, theirs)]
  print(f'relative error of latents in bfloat16: JAX {errors[0]:.4f}, PyTorch {errors[1]:.4f}')
  assert min(errors) > 1e-4 and max(errors) < 0.1


@pytest.mark.parametrize('config', [None, PATCHES], ids=['plain', 'a linear path'])
def test_tae_is_saved_and_read_back(tmp_path, config):
  codec = drawn_at_random(config) if config else trained()
  module(codec).save_pretrained(tmp_path)
  loaded = TTMTemporalAutoencoder.from_pretrained(tmp_path)
  assert loaded.stride == codec.config.cell and not loaded.scale.requires_grad
  back = tae_convert.from_torch(read(tmp_path))
  assert back.config == codec.config
  for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(codec), strict=True):
    assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
  half = TTMTemporalAutoencoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  assert half.encoder.conv_in.weight.dtype == torch.bfloat16
  assert half.scale.dtype == half.shift.dtype == torch.float32


def test_tae_begins_as_ours():
  model = TTMTemporalAutoencoder(**SMALL)
  pixels = torch.randn(1, 3, 4, 8, 8)
  singly = model.encode(pixels[:, :, ::2].transpose(0, 2)).latent_dist.mode()
  latents = model.encode(pixels).latent_dist.mode()
  bias = dict(zip(*initial(), strict=True))['.encoder.conv_out.bias.value']
  torch.testing.assert_close(model.encoder.conv_out.bias.detach(), torch.tensor(bias))
  torch.testing.assert_close(latents[0].transpose(0, 1), singly[:, :, 0])
  assert not model.encoder.layers[0].conv2.weight.any() and model.encoder.conv_in.weight.any()
  model.decode(latents).sample.square().mean().backward()
  assert model.decoder.conv_out.temporal.weight.grad.any() and model.scale.grad is None


@functools.cache
def linear(lapped=False):
  rng = np.random.default_rng(0)
  videos = [rng.integers(0, 256, (6, 12, 18, 3)).astype(np.uint8) for _ in range(3)]
  return LinearCodec.fit(videos, channels=16, lapped=lapped)


def linear_module(lapped=False):
  codec = linear(lapped)
  model = TTMLinearCodec(**linear_convert.config_to_torch(codec))
  tensors = export_tensors(
    linear_convert.table(codec.patch, codec.channels), linear_convert.parameters(codec)
  )
  model.load_state_dict({name: parity.tensor(x) for name, x in tensors.items()})
  return model


@pytest.mark.parametrize('lapped', [False, True])
@pytest.mark.parametrize('frames', [1, 4, 5])
def test_linear_codec_is_ours(frames, lapped):
  codec, model, pixels = linear(lapped), linear_module(lapped), video(2, frames, 12, 18)
  wanted = codec.encode(pixels).mean
  found = model.encode(parity.channels_first(pixels)).latent_dist
  assert torch.equal(found.sample(), found.mode())
  shown = model.decode(found.mode(), frames).sample
  errors = [
    parity.drift(parity.channels_last(found.mode()), wanted),
    parity.drift(parity.channels_last(shown), codec.decode(wanted, frames)),
  ]
  print(f'linear codec, {frames} frames: {max(errors):.1e}')
  assert max(errors) < 1e-5
  assert model.decode(found.mode()).sample.shape[2] == frames + frames % 2


@pytest.mark.parametrize('lapped', [False, True])
def test_linear_codec_is_saved_and_read_back(tmp_path, lapped):
  linear_module(lapped).save_pretrained(tmp_path)
  back, saved = linear_convert.from_torch(read(tmp_path)), linear(lapped)
  assert (back.patch, back.psnr, back.explained) == (saved.patch, saved.psnr, saved.explained)
  assert back.lapped == lapped
  for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(saved), strict=True):
    assert np.shape(x) == np.shape(y) and np.asarray(x).tobytes() == np.asarray(y).tobytes()
  assert TTMLinearCodec.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.float32


def test_a_linear_codec_of_an_earlier_version_is_read(tmp_path):
  linear_module().save_pretrained(tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  del config['lapped']
  path.write_text(json.dumps(config))
  assert linear_convert.from_torch(read(tmp_path)).lapped is False


@pytest.mark.parametrize('model', [TTMTemporalAutoencoder(**SMALL), TTMLinearCodec((2, 2, 2), 4)])
def test_what_does_not_fit(model):
  with pytest.raises(InputError, match='frame width 9 is not a multiple of the codec stride 2'):
    model.encode(torch.zeros(1, 3, 2, 8, 9))
  with pytest.raises(InputError, match=r'needs video \[B, 3, T, H, W\]'):
    model.encode(torch.zeros(1, 2, 8, 8, 3))
  with pytest.raises(ValueError, match='2 latent frames of 2 are not those of 5 frames'):
    model.decode(torch.zeros(1, model.config.channels, 2, 4, 4), 5)
