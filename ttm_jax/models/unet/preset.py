"""The preset `unet`: Stable Diffusion 1.5 with AnimateDiff v3, diffusion with zero terminal SNR."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.errors import InputError
from ttm_jax.models.preset import (
  TASK_FIELDS,
  Grid,
  Latents,
  Preset,
  Shape,
  TorchModel,
  TypicalInput,
)
from ttm_jax.models.unet import convert, open_weights
from ttm_jax.models.unet.flops import forward_flops
from ttm_jax.models.unet.model import UNetConfig, create
from ttm_jax.models.unet.sharding import SHARDING
from ttm_jax.models.unet.transfer import transfer
from ttm_jax.pretrained.weights import Weights
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion
from ttm_jax.text.encoders import CLIP_L


def grids(config: UNetConfig, height: int, width: int) -> tuple[Grid, ...]:
  """Return the token grids of latents (H', W'): one for each level that has transformers.

  Raises:
    InputError: if the latents cannot be halved once per level.
  """
  levels = len(config.widths) - 1
  if height % 2**levels or width % 2**levels:
    raise InputError(
      f'latents of {height} x {width} cannot be halved {levels} times, as the U-Net does: choose'
      ' another size of the clips, or another codec'
    )
  return tuple((height >> i, width >> i) for i in range(levels))


def check_latents(config: UNetConfig, latents: Latents) -> None:
  """Raise InputError if latents (T', H', W') have more frames than `motion_length`."""
  if latents[0] > config.motion_length:
    raise InputError(
      f'clips of {latents[0]} latent frames exceed motion_length = {config.motion_length}: set'
      ' --config.model.motion_length, or encode shorter clips'
    )


def _scheduler_config(process: ZeroSNRDiffusion) -> dict[str, Any]:
  return {
    'num_train_timesteps': process.train_steps,
    'beta_start': process.beta_start,
    'beta_end': process.beta_end,
    'beta_schedule': process.beta_schedule,
    'prediction_type': {'v': 'v_prediction', 'data': 'sample'}[process.prediction],
    'timestep_spacing': 'trailing',
    'rescale_betas_zero_snr': True,
    'clip_sample': False,
    'set_alpha_to_one': True,
    'solver': process.solver,
  }


class TorchUNet(TorchModel):
  """The conversion of the U-Net: its tensors are not just those of the name table."""

  def specs(self, params: Mapping[str, Any], config: UNetConfig) -> list[tuple[str, Shape]]:
    """See `TorchModel` and `convert.specs`."""
    return convert.specs(params, config.motion_length)

  def to_torch(
    self, params: Mapping[str, Any], config: UNetConfig
  ) -> Iterator[tuple[str, np.ndarray]]:
    """See `TorchModel` and `convert.to_torch`."""
    return convert.to_torch(params, config.motion_length)

  def from_torch(self, weights: Weights, like: Mapping[str, Any]) -> dict[str, Any]:
    """See `TorchModel` and `convert.from_torch`."""
    return convert.from_torch(weights, like)


PRESET = Preset(
  name='unet',
  config=UNetConfig,
  model=create,
  process=ZeroSNRDiffusion,
  sharding=SHARDING,
  grids=grids,
  transfer=transfer,
  forward_flops=forward_flops,
  check_latents=check_latents,
  lora_targets=(r'\.(spatial\.block|motion)\.(attn\d?|cross_attn|ffn)\.',),
  # Stable Diffusion reads CLIP as it is; projections of other texts are new.
  new_parts=r'masked_(cross_)?attn|conv_visual|^text\.',
  masked_within_frames=lambda config: config.masked_scope == 'spatial',
  demo_configs=('demo_unet_stage1', 'demo_unet_stage2'),
  task_fields=TASK_FIELDS | {'masked_scope'},
  typical=TypicalInput(
    codec=lambda config: SDVAE(SDVAEConfig(channels=config.channels), rngs=nnx.Rngs(0)),
    encoders={'clip': CLIP_L},
    latents=lambda config: (16, 64, 64),
    fps=6,
  ),
  torch=TorchUNet(
    network='TTMUNet',
    module='ttm_jax.pytorch.unet',
    scheduler='ZeroSNRScheduler',
    config_to_torch=convert.config_to_torch,
    config_from_torch=convert.config_from_torch,
    table=convert.table,
    scheduler_config=_scheduler_config,
    component='unet',
  ),
  open_weights=open_weights.load,
  # If tokens are split, XLA's partitioner (jax 0.10.2) fails, or the losses differ from those of
  # one device.
  splits_tokens=False,
  gathers_weights=True,
)
