"""The preset `wan`: the transformer of Wan 2.1 and 2.2, from open text-to-video weights."""

import dataclasses

from flax import nnx

from ttm_jax.codecs.wan_vae import WAN21, WAN22, WanVAE
from ttm_jax.errors import InputError
from ttm_jax.models.patches import token_grid
from ttm_jax.models.preset import Grid, Latents, Preset, TorchModel, TypicalInput
from ttm_jax.models.stacked_transfer import transfer
from ttm_jax.models.transformer_flops import forward_flops
from ttm_jax.models.wan import convert
from ttm_jax.models.wan.model import MOST_POSITIONS, PATCH, Wan, WanConfig
from ttm_jax.models.wan.sharding import SHARDING
from ttm_jax.processes.flow_matching import FlowMatching, scheduler_config
from ttm_jax.text.encoders import TextEncoderSpec

# umT5-XXL (google/umt5-xxl), padded to 512 tokens as in training of Wan.
UMT5 = TextEncoderSpec(dim=4096, length=512, prompt_length=64)


def grids(config: WanConfig, height: int, width: int) -> tuple[Grid, ...]:
  """Return the single token grid of latents (H', W').

  Raises:
    InputError: if the latents do not divide into tokens.
  """
  return (token_grid(height, width, PATCH),)


def check_latents(config: WanConfig, latents: Latents) -> None:
  """Raise InputError if latents (T', H', W') exceed the positions of the network."""
  frames, height, width = latents
  if max(frames, height // PATCH[0], width // PATCH[1]) > MOST_POSITIONS:
    raise InputError(
      f'latents of the dataset are {tuple(latents)}: the network has {MOST_POSITIONS} positions'
      ' along each axis; encode shorter or smaller clips'
    )


def _flops(config: WanConfig, latents: Latents, text: int, prompts: int, allowed: float) -> float:
  return forward_flops(config, latents, text, prompts, allowed, patch=PATCH, ffn_kernels=2)


def _codec(config: WanConfig) -> WanVAE:
  """Return the autoencoder of the release with this number of latent channels."""
  sizes = WAN22 if config.channels == WAN22.channels else WAN21
  if config.channels != sizes.channels:  # Another network than a published one.
    count = config.channels
    sizes = dataclasses.replace(sizes, channels=count, mean=(0.0,) * count, std=(1.0,) * count)
  return WanVAE(sizes, rngs=nnx.Rngs(0))


PRESET = Preset(
  name='wan',
  config=WanConfig,
  model=Wan,
  process=FlowMatching,
  sharding=SHARDING,
  grids=grids,
  transfer=transfer,
  forward_flops=_flops,
  check_latents=check_latents,
  open_weights=convert.open_weights,
  frame_times=True,
  lora_targets=(r'blocks\.(attn|cross_attn|ffn)\.',),
  new_parts=r'masked_(cross_)?attn|embed_visual',
  demo_configs=('demo_wan_stage1', 'demo_wan_stage2'),
  typical=TypicalInput(
    codec=_codec,
    encoders={'umt5': UMT5},
    # Five seconds of 256 x 256 pixels: 125 frames for Wan 2.1, 121 for Wan 2.2.
    latents=lambda config: (31, 16, 16) if config.channels == WAN22.channels else (32, 32, 32),
    fps=16,
  ),
  torch=TorchModel(
    network='TTMWanTransformer',
    module='ttm_jax.pytorch.wan',
    scheduler='FlowMatchingScheduler',
    config_to_torch=convert.config_to_torch,
    config_from_torch=convert.config_from_torch,
    table=convert.table,
    scheduler_config=scheduler_config,
  ),
)
