"""The preset `dit`: a Movie Gen-style transformer with flow matching (paper, section 10)."""

from flax import nnx

from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.errors import InputError
from ttm_jax.models.dit import convert
from ttm_jax.models.dit.model import DiT, DiTConfig
from ttm_jax.models.dit.sharding import SHARDING
from ttm_jax.models.patches import token_grid
from ttm_jax.models.preset import Grid, Latents, Preset, TorchModel, TypicalInput
from ttm_jax.models.stacked_transfer import transfer
from ttm_jax.models.transformer_flops import forward_flops
from ttm_jax.processes.flow_matching import FlowMatching, scheduler_config
from ttm_jax.text.encoders import TextEncoderSpec


def grids(config: DiTConfig, height: int, width: int) -> tuple[Grid, ...]:
  """Return the single token grid of latents (H', W').

  Raises:
    InputError: if the latents do not divide into tokens.
  """
  return (token_grid(height, width, config.patch),)


def check_latents(config: DiTConfig, latents: Latents) -> None:
  """Raise InputError if latents (T', H', W') exceed the position tables."""
  if any(a > b for a, b in zip(latents, config.grid, strict=True)):
    raise InputError(
      f'latents of the dataset are {tuple(latents)}: set --config.model.grid to at least that,'
      f' it is {config.grid}'
    )


def _flops(config: DiTConfig, latents: Latents, text: int, prompts: int, allowed: float) -> float:
  return forward_flops(config, latents, text, prompts, allowed, patch=config.patch, ffn_kernels=3)


PRESET = Preset(
  name='dit',
  config=DiTConfig,
  model=DiT,
  process=FlowMatching,
  sharding=SHARDING,
  grids=grids,
  transfer=transfer,
  forward_flops=_flops,
  check_latents=check_latents,
  lora_targets=(r'blocks\.(attn|cross_attn|ffn)\.',),
  new_parts=r'masked_(cross_)?attn|embed_visual',
  demo_configs=('demo_stage1', 'demo_stage2'),
  text_prefix='FPS-{fps:g}',  # As in Movie Gen.
  typical=TypicalInput(
    codec=lambda config: TAE(TAEConfig(channels=config.channels), rngs=nnx.Rngs(0)),
    # The encoders of Movie Gen, without the long-prompt MetaCLIP, which was never released.
    encoders={'ul2': TextEncoderSpec(4096, 512, 64), 'byt5': TextEncoderSpec(1472, 128, 32)},
    latents=lambda config: config.grid,
    fps=24,
  ),
  torch=TorchModel(
    network='TTMTransformer',
    module='ttm_jax.pytorch.dit',
    scheduler='FlowMatchingScheduler',
    config_to_torch=convert.config_to_torch,
    config_from_torch=convert.config_from_torch,
    table=convert.table,
    scheduler_config=scheduler_config,
  ),
)
