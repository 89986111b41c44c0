"""A toy backbone outside of the package, with two attention layers.

`register` registers it as a preset, as a third-party package would.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.models.dit import convert
from ttm_jax.models.preset import Preset, TorchModel, TypicalInput
from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.linear import Linear
from ttm_jax.nn.masked_attention import MaskedLayer
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.nn.time_embedding import TimeEmbedding
from ttm_jax.presets import register as register_preset
from ttm_jax.pretrained.weights import Weights
from ttm_jax.processes.flow_matching import FlowMatching, scheduler_config
from ttm_jax.text.encoders import TextEncoderSpec, TextProjector


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  """Configuration of the toy backbone."""

  width: int = 16
  heads: int = 2
  masked_blocks: int = 0
  channels: int = 6
  visual_channels: int = 0
  dtype: str = 'float32'
  remat: str = 'none'


class Toy(nnx.Module):
  """The toy backbone: (x_t, t, condition) -> prediction. Each latent position is a token."""

  def __init__(self, config: ToyConfig, encoders: Mapping[str, TextEncoderSpec], *, rngs: nnx.Rngs):
    d = config.width
    self.config = config
    self.embed = Linear(config.channels + config.visual_channels, d, rngs=rngs)
    self.text = TextProjector(encoders, d, rngs=rngs, dtype=jnp.float32)
    self.time = TimeEmbedding(d, rngs=rngs)
    self.norm, self.attn = RMSNorm(d), Attention(d, config.heads, rngs=rngs)
    self.masked_attn = (
      MaskedLayer(RMSNorm(d), Attention(d, config.heads, rngs=rngs), 'gate')
      if config.masked_blocks
      else None
    )
    self.head = Linear(d, config.channels, rngs=rngs)

  def __call__(self, x_t, t, condition):
    latents = [x_t] if condition.visual is None else [x_t, condition.visual]
    h = jnp.concatenate(latents, -1)
    h = self.embed(h.reshape(len(h), -1, h.shape[-1]))
    text, bits = self.text(condition.text)
    text = jnp.sum(text * (bits != 0)[..., None], 1, keepdims=True)
    h = h + jax.nn.silu(self.time(t))[:, None] + text
    h = h + self.attn(self.norm(h))
    if self.masked_attn is not None:
      mask = None
      if condition.objects is not None:
        region = condition.objects.token_masks[0].region.reshape(len(h), -1)
        mask = AttentionMask.make(region, region, self.config.width // self.config.heads, 'float32')
      h = self.masked_attn(h, None, mask)
    return self.head(h).reshape(x_t.shape).astype(jnp.float32)


def transfer(source: dict, target: dict) -> dict:
  """Return `target` with the leaves of `source` that have the same path and shape."""

  def taken(path, leaf):
    found: Any = source
    for key in path:
      found = found.get(key.key, {}) if isinstance(found, dict) else {}
    return found if getattr(found, 'shape', None) == leaf.shape else leaf

  return jax.tree.map_with_path(taken, target)


def flops(config: ToyConfig, latents, text, prompts, allowed) -> float:
  """Return the FLOPs of one forward pass of one sample."""
  n, d = latents[0] * latents[1] * latents[2], config.width
  layer = 8 * n * d * d + 4 * n * n * d
  return layer + bool(config.masked_blocks) * (8 * n * d * d + allowed * 4 * n * n * d)


def config_to_torch(config: ToyConfig, encoders: Mapping[str, TextEncoderSpec]) -> dict[str, Any]:
  """Return the keyword arguments of `toy_torch.ToyNetwork`."""
  return {
    'encoders': [{'name': name, **dataclasses.asdict(e)} for name, e in encoders.items()],
    'width': config.width,
    'heads': config.heads,
    'num_masked_blocks': config.masked_blocks,
    'channels': config.channels,
    'visual_channels': config.visual_channels,
  }


def config_from_torch(weights: Weights) -> tuple[ToyConfig, dict[str, TextEncoderSpec]]:
  """Invert `config_to_torch`."""
  values = weights.config
  encoders = [dict(e) for e in values['encoders']]
  names = ('width', 'heads', 'channels', 'visual_channels')
  sizes = {name: values[name] for name in names}
  config = ToyConfig(**sizes, masked_blocks=values['num_masked_blocks'])
  return config, {e.pop('name'): TextEncoderSpec(**e) for e in encoders}


def names(params: Mapping[str, Any]):
  """Return the parameter name table of the DiT, with gates named `alpha`."""
  return [
    dataclasses.replace(
      e, theirs=tuple(n.replace('masked_attn.gate', 'masked_attn.alpha') for n in e.theirs)
    )
    for e in convert.table(params)
  ]


PRESET = Preset(
  name='toy',
  config=ToyConfig,
  model=Toy,
  process=FlowMatching,
  sharding=(('kernel', ('fsdp', None)),),
  grids=lambda config, height, width: ((height, width),),
  transfer=transfer,
  forward_flops=flops,
  lora_targets=(r'^attn\.',),
  typical=TypicalInput(
    codec=lambda config: LinearCodec(
      basis=jnp.zeros((2 * 4 * 4 * 3, config.channels)),
      mean=jnp.zeros(2 * 4 * 4 * 3),
      scale=jnp.ones(()),
      patch=(2, 4, 4),
      explained=1.0,
      psnr=1.0,
    ),
    encoders={'words': TextEncoderSpec(16, 16, 8)},
    latents=lambda config: (2, 4, 4),
    fps=8,
  ),
  torch=TorchModel(
    network='ToyNetwork',
    module='tests.helpers.toy_torch',
    scheduler='FlowMatchingScheduler',
    config_to_torch=config_to_torch,
    config_from_torch=config_from_torch,
    table=names,
    scheduler_config=scheduler_config,
  ),
)


def register() -> None:
  """Register the toy backbone as a preset."""
  register_preset(PRESET)


def register_torch() -> None:
  """Register the toy backbone as a preset, and its PyTorch class for exported folders."""
  from tests.helpers.toy_torch import ToyNetwork
  from ttm_jax.pytorch.loading import register as register_class

  register()
  register_class(ToyNetwork)


CONFIG = """
from ml_collections import ConfigDict

from ttm_jax.configs.dit import dit


def get_config():
  config = dit('{task}')
  config.preset = 'toy'
  config.model = ConfigDict({{'width': 16, 'heads': 2, 'masked_blocks': {masked}, 'channels': 6}})
  config.process.steps = 4
  config.data.update({{'batch_size': 4, 'threads': 1}})
  config.train.update({{'steps': 3, 'accumulate': 1, 'log_every': 1, 'evaluate_every': 2,
    'evaluate_batches': 1, 'sample_every': 3, 'checkpoint_every': 2}})
  config.sample.update({{'count': 2, 'visual_scale': 1.5, 'text_scale': 2.0}})
  config.optimizer.warmup = 1
  config.mesh.update({{'data': -1, 'fsdp': 1}})
  return config
"""
