"""A small Wan with masked layers: weights and inputs of JAX, and its PyTorch modules."""

import dataclasses
import functools

import jax
import numpy as np
from diffusers import WanTransformer3DModel
from flax import nnx

from tests.helpers import pytorch_parity as parity
from ttm_jax.conditioning import Condition, Objects, TokenMasks
from ttm_jax.models.wan import convert
from ttm_jax.models.wan.model import Wan, WanConfig
from ttm_jax.models.wan.preset import PRESET
from ttm_jax.pytorch.wan import TTMWanTransformer
from ttm_jax.text.encoders import TextEncoderSpec, caption_tokens, prompt_tokens

C = 3
UMT5 = {'umt5': TextEncoderSpec(dim=6, length=7, prompt_length=2)}
WORDS = {'words': TextEncoderSpec(dim=8, length=6, prompt_length=3)}
PLAIN = WanConfig(
  width=24, layers=3, heads=2, ffn=40, channels=C, dtype='float32', remat='none', unroll=1
)
STAGE2 = dataclasses.replace(PLAIN, masked_blocks=2, visual_channels=2 * C)
LATENTS = (3, 8, 6)


@functools.cache
def structure(config, words=False):
  """Return the graph of the network and the shapes of its parameters."""
  model = nnx.eval_shape(lambda: Wan(config, WORDS if words else UMT5, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model, nnx.Param)
  return graphdef, nnx.to_pure_dict(state)


def randomized(config, seed, words=False):
  """Draw random parameters, as after training: no head, gate or modulation is zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    return (0.2 * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, structure(config, words)[1])


def example_inputs(config, objects, seed, words=False, latents=LATENTS):
  """Return x_t, t and a condition of two samples; captions are padded, one of them is empty."""
  rng = np.random.default_rng(seed)
  ((name, spec),) = (WORDS if words else UMT5).items()

  def array(*shape):
    return rng.normal(size=(2, *shape)).astype(np.float32)

  def embedded(*shape):
    if words:
      return rng.integers(2, 4096, (2, *shape)).astype(np.int32)
    return array(*shape, spec.dim)

  text = {name: caption_tokens(embedded(spec.length), np.array([4, 0]))}
  counts = np.minimum(np.array([[3, 0, 2], [1, 0, 0]]), spec.prompt_length)
  prompts = {name: prompt_tokens(embedded(3, spec.prompt_length), counts)}
  tokens = (latents[0], latents[1] // 2, latents[2] // 2)
  region = 1 << rng.integers(0, 4, (2, *tokens), dtype=np.int32)
  present = 2 * rng.integers(0, 8, (2, *tokens), dtype=np.int32)  # Object sets of objects 1 to 3.
  visual = array(*latents, config.visual_channels) if config.visual_channels else None
  found = Objects((TokenMasks(region, present),), prompts) if objects else None
  return array(*latents, C), np.array([900.0, 40.0], np.float32), Condition(text, visual, found)


def module(config, params, words=False):
  """Return the PyTorch network with these parameters."""
  made = convert.config_to_torch(config, WORDS if words else UMT5)
  model = TTMWanTransformer(**made)
  model.load_state_dict({k: parity.tensor(v) for k, v in PRESET.torch.to_torch(params, config)})
  return model.eval()


def original(config=PLAIN, seed=0, **changes):
  """Return a random `WanTransformer3DModel` of diffusers with the sizes of a configuration."""
  import torch

  torch.manual_seed(seed)
  model = WanTransformer3DModel(
    **{
      'num_layers': config.layers,
      'num_attention_heads': config.heads,
      'attention_head_dim': config.head_dim,
      'ffn_dim': config.ffn,
      'in_channels': config.channels,
      'out_channels': config.channels,
      'text_dim': UMT5['umt5'].dim,
      **changes,
    }
  )
  with torch.no_grad():
    for tensor in model.parameters():
      tensor.add_(0.2 * torch.randn_like(tensor))
  return model.eval()
