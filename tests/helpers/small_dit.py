"""A small DiT with masked layers: weights and inputs of JAX, and its PyTorch module."""

import functools

import jax
import numpy as np
from flax import nnx

from tests.helpers import pytorch_parity as parity
from ttm_jax.conditioning import Condition, Objects, TokenMasks
from ttm_jax.models.dit import convert as pretrained
from ttm_jax.models.dit.model import DiT, DiTConfig
from ttm_jax.models.dit.preset import PRESET
from ttm_jax.pytorch.dit import TTMTransformer
from ttm_jax.text.encoders import TextEncoderSpec, caption_tokens, prompt_tokens

# Not in alphabetical order, which JSON uses.
ENCODERS = {
  'words': TextEncoderSpec(dim=8, length=6, prompt_length=3),
  't5': TextEncoderSpec(dim=6, length=5, prompt_length=2),
}
C = 3
STAGE2 = DiTConfig(
  width=32,
  layers=3,
  heads=4,
  ffn=48,
  masked_blocks=2,
  channels=C,
  visual_channels=2 * C,
  grid=(3, 8, 8),
  dtype='float32',
  remat='none',
)
LATENTS = (2, 8, 6)  # Smaller than the grid along time and width; 2 x 4 x 3 tokens.
TOKENS = (2, 4, 3)


@functools.cache
def structure(config):
  model = nnx.eval_shape(lambda: DiT(config, ENCODERS, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model, nnx.Param)
  return graphdef, nnx.to_pure_dict(state)


def randomized(config, seed):
  """Draw random parameters, as after training: no head, gate or modulation is zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    return (0.2 * rng.normal(size=leaf.shape) + (path[-1].key == 'scale')).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, structure(config)[1])


def example_inputs(config, objects, seed):
  """Return x_t, t and a condition of two samples.

  Captions are padded; that of the second sample is empty. Object 2 has no prompt, and object 3 none
  in the second sample.
  """
  rng = np.random.default_rng(seed)

  def array(*shape):
    return rng.normal(size=(2, *shape)).astype(np.float32)

  def ids(*shape):
    return rng.integers(2, 4096, (2, *shape)).astype(np.int32)

  text = {
    'words': caption_tokens(ids(6), np.array([4, 0])),
    't5': caption_tokens(array(5, 6), np.array([3, 0])),
  }
  counts = np.array([[3, 0, 2], [1, 0, 0]])
  prompts = {
    'words': prompt_tokens(ids(3, 3), counts),
    't5': prompt_tokens(array(3, 2, 6), np.minimum(counts, 2)),
  }
  region = 1 << rng.integers(0, 4, (2, *TOKENS), dtype=np.int32)
  present = 2 * rng.integers(0, 8, (2, *TOKENS), dtype=np.int32)  # Object sets of objects 1 to 3.
  visual = array(*LATENTS, config.visual_channels) if config.visual_channels else None
  found = Objects((TokenMasks(region, present),), prompts) if objects else None
  return array(*LATENTS, C), np.array([900.0, 40.0], np.float32), Condition(text, visual, found)


def to_torch(params):
  """Return the names and tensors of the PyTorch network, one at a time."""
  return PRESET.torch.to_torch(params, None)


def from_torch(weights, like):
  """Return the parameters of a network with these shapes."""
  return PRESET.torch.from_torch(weights, like)


def module(config, params):
  model = TTMTransformer(**pretrained.config_to_torch(config, ENCODERS))
  model.load_state_dict({k: parity.tensor(v) for k, v in to_torch(params)})
  return model
