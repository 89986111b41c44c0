"""Small autoencoders of Wan for tests, with all weights random."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from ttm_jax.codecs import wan_vae_convert as convert
from ttm_jax.codecs.wan_vae import WanVAE, WanVAEConfig
from ttm_jax.pretrained.names import export_tensors
from ttm_jax.pretrained.weights import WEIGHTS

_COMMON = {'channels': 3, 'multipliers': (1, 2, 2), 'res_blocks': 1, 'base_channels': 8}
_COMMON |= {'mean': (0.1, -0.2, 0.3), 'std': (0.5, 1.5, 2.0), 'tile': (64, 64)}
# One of each generation; frames are multiples of 4 pixels (2.1) and of 8 pixels (2.2).
CONFIGS = {
  'wan21_vae': WanVAEConfig(**_COMMON, decoder_channels=8),
  'wan22_vae': WanVAEConfig(**_COMMON, decoder_channels=12, residual=True, patch=2),
}


@jax.jit
def encode(codec, video):
  return codec.encode(video)


@jax.jit(static_argnums=2)
def decode(codec, latents, frames):
  return codec.decode(latents, frames)


@functools.cache
def abstract(config):
  """Return a codec of shapes."""
  return nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0)))


def drawn(config, seed=0):
  """Return a codec whose random weights keep the variance of activations."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    spread = np.prod(leaf.shape[:-1]) ** -0.5 if 'kernel' in name else 0.2
    value = spread * rng.normal(size=leaf.shape) + ('scale' in name)
    return jnp.asarray(value, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, abstract(config))


def tensors(codec, original=False):
  """Return the tensors of a codec by their names in diffusers or in the original repository."""
  return export_tensors(convert.table(codec.config, original), convert.parameters(codec))


def write(folder, codec, **changes):
  """Write a folder in the format of diffusers, with changes to config.json; return its path."""
  folder.mkdir(parents=True, exist_ok=True)
  config = convert.config_to_diffusers(codec.config) | changes
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file(tensors(codec), folder / WEIGHTS)
  return str(folder)


def video(frames, height=16, width=16, batch=1, seed=0):
  """Return smooth random pixels, float32 [B, T, H, W, 3] in [-1, 1]."""
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(-1, 1, (batch, frames, height // 4, width // 4, 3)).astype(np.float32)
  fine = rng.uniform(-0.2, 0.2, (batch, frames, height, width, 3)).astype(np.float32)
  return np.clip(coarse.repeat(4, axis=2).repeat(4, axis=3) + fine, -1, 1)
