"""Stable Diffusion's autoencoder against diffusers, through its files, and with slicing."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ttm_jax.codecs import sd_vae_convert as pretrained
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.pretrained.names import export_tensors

SMALL = SDVAEConfig(base_channels=16, multipliers=(1, 1), res_blocks=1)


def small(**options):
  """Return a small codec whose weights are all random."""
  codec = SDVAE(dataclasses.replace(SMALL, **options), rngs=nnx.Rngs(0))
  rng = np.random.default_rng(0)
  graphdef, state = nnx.split(codec)
  state = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), state)
  return nnx.merge(graphdef, state)


def video(frames, size=8):
  rng = np.random.default_rng(1)
  return rng.uniform(-1, 1, (2, frames, size, size + 4, 3)).astype(np.float32)


@jax.jit
def encode(codec, pixels):
  return codec.encode(pixels)


@jax.jit(static_argnums=2)
def decode(codec, latents, frames):
  return codec.decode(latents, frames)


def test_full_size():
  codec = nnx.eval_shape(lambda: SDVAE(SDVAEConfig(), rngs=nnx.Rngs(0)))
  sizes = [x.size for x in jax.tree.leaves(nnx.state(codec, nnx.Param))]
  assert sum(sizes) == 83_653_863  # The size of Stable Diffusion 1.5.
  assert codec.channels == 4 and codec.stride == (8, 8)
  assert codec.frame_groups(3).tolist() == [0, 1, 2]
  clip = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), np.float32)
  assert jax.eval_shape(encode, codec, clip).mean.shape == (1, 16, 8, 8, 4)


def test_frames_go_through_one_by_one_however_they_are_sliced():
  codec = small()
  moments = encode(codec, video(5))
  assert moments.mean.std() > 0.01
  shown = decode(codec, moments.mean, 5)
  assert shown.shape == video(5).shape and shown.std() > 0.05
  alone = encode(codec, video(5)[:, 3:4])
  np.testing.assert_allclose(alone.mean, moments.mean[:, 3:4], atol=1e-5)
  np.testing.assert_allclose(alone.logvar, moments.logvar[:, 3:4], atol=1e-5)
  for frames in (2, 5):
    sliced = small(frames=frames)
    np.testing.assert_allclose(encode(sliced, video(5)).mean, moments.mean, atol=1e-5)
    np.testing.assert_allclose(decode(sliced, moments.mean, 5), shown, atol=1e-5)
  with pytest.raises(ValueError, match='5 latent frames of 1 are not those of 4 frames'):
    codec.decode(moments.mean, 4)
  with pytest.raises(InputError, match='height 9 is not a multiple of the codec stride 2'):
    codec.encode(np.zeros((1, 1, 9, 8, 3), np.float32))


def test_a_codec_comes_back_as_it_was(tmp_path):
  codec = small()
  save_codec(tmp_path / 'codec', codec)
  again = load_codec(tmp_path / 'codec')
  assert again.config == codec.config
  jax.tree.map(np.testing.assert_array_equal, nnx.state(codec), nnx.state(again))


@pytest.mark.parametrize(
  'seed, widths, blocks', [(0, (16, 16), 1), (1, (128, 256), 1), (2, (32, 32, 32), 2)]
)
def test_it_encodes_and_decodes_as_diffusers_does(tmp_path, seed, widths, blocks):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
  diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  torch.manual_seed(seed)
  model = diffusers.AutoencoderKL(
    block_out_channels=widths,
    down_block_types=('DownEncoderBlock2D',) * len(widths),
    up_block_types=('UpDecoderBlock2D',) * len(widths),
    layers_per_block=blocks,
    norm_num_groups=min(32, widths[0] // 4),
  ).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.02 * torch.randn(parameter.shape)
  model.save_pretrained(tmp_path / 'vae')
  codec = pretrained.load(str(tmp_path))
  clip = video(2)
  frames = torch.from_numpy(clip.reshape(-1, *clip.shape[2:]).transpose(0, 3, 1, 2).copy())
  with torch.no_grad():
    posterior = model.encode(frames).latent_dist
    decoded = model.decode(posterior.mean).sample
  ours = encode(codec, clip)

  def relative(got, wanted):
    wanted = wanted.numpy().transpose(0, 2, 3, 1).reshape(got.shape)
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())

  errors = [
    relative(ours.mean, posterior.mean * 0.18215),
    relative(ours.logvar, posterior.logvar + 2 * np.log(0.18215)),
    relative(decode(codec, ours.mean, 2), decoded.clip(-1, 1)),
  ]
  print(f'widths {widths}: relative errors', *(f'{e:.1e}' for e in errors))
  assert max(errors) < 1e-4
  # Convert back to the file, also with the names of 2022.
  tensors = export_tensors(pretrained.table(codec.config), nnx.to_pure_dict(nnx.state(codec)))
  path = tmp_path / 'vae' / 'diffusion_pytorch_model.safetensors'
  written = safetensors.numpy.load_file(path)
  jax.tree.map(np.testing.assert_array_equal, tensors, written)
  former = {v: k for k, v in pretrained.FORMER.items()}
  for now, then in former.items():
    tensors = {
      name.replace(f'attentions.0.{now}.', f'attentions.0.{then}.'): array
      for name, array in tensors.items()
    }
  assert tensors.keys() != written.keys()
  safetensors.numpy.save_file(tensors, path)
  again = pretrained.load(str(tmp_path / 'vae'))
  jax.tree.map(np.testing.assert_array_equal, nnx.state(codec), nnx.state(again))
