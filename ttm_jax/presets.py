"""What belongs together: for each preset, how its backbone is built, sharded, counted and fed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from ttm_jax.codecs.base import Codec
from ttm_jax.codecs.sd_vae import SDVAE, SDVAEConfig
from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.errors import InputError, nearest
from ttm_jax.models.dit import model as dit
from ttm_jax.models.unet import model as unet
from ttm_jax.models.unet import open_weights as open_unet
from ttm_jax.pretrained import exported
from ttm_jax.processes.flow_matching import FlowMatching
from ttm_jax.processes.zero_snr import ZeroSNRDiffusion
from ttm_jax.text.encoders import CLIP_L, Encoder


@dataclass(frozen=True)
class Typical:
  """What a backbone is fed in the paper: for plans, which are made before there is a dataset.

  Attributes:
    codec: builds the autoencoder of the latents that a backbone with this config takes.
    encoders: the text encoders by name.
    latents: the largest (T', H', W') that it takes.
    fps: frames per second of the clips.
  """

  codec: Callable[[Any], Codec]
  encoders: Mapping[str, Encoder]
  latents: Callable[[Any], tuple[int, int, int]]
  fps: float


@dataclass(frozen=True)
class Preset:
  """A backbone with its process.

  Attributes:
    config: dataclass of the backbone's sizes.
    model: builds the backbone from (config, text encoders, rngs=).
    process: dataclass of the noising process.
    sharding: parameter table of the backbone.
    grids: the token grids (h, w) of the backbone for latents of (H', W'), finest first; raises
      InputError where the latents do not divide into tokens.
    transfer: brings the parameters of one task's network into another's.
    forward_flops: floating-point operations of one forward pass of one sample, called as (config,
      (T', H', W') of the latents, text, prompts, allowed), see `dit.forward_flops`.
    text_prefix: precedes captions and motion prompts for pre-trained text encoders; {fps} in it
      stands for the rate of the clips.
    pretrained: reads open weights into the parameters that `transfer` brings in: called as
      (folders or hub ids, config); None where there are none.
    typical: what it is fed in the paper.
    splits_tokens: whether mesh axis sequence may split it.
    narrow: whether its layers are so narrow that weights are best gathered, see
      `parallel.compiler`.
  """

  config: type
  model: Callable[..., nnx.Module]
  process: type
  sharding: tuple
  grids: Callable[[int, int], tuple[tuple[int, int], ...]]
  transfer: Callable[[dict, dict], dict]
  forward_flops: Callable[..., float]
  typical: Typical
  text_prefix: str = ''
  pretrained: Callable[[str, Any], dict] | None = None
  splits_tokens: bool = True
  narrow: bool = False

  def build(self, config: Any, encoders: Mapping[str, Encoder], seed: int = 0) -> nnx.Module:
    """The network with initial parameters, float32."""
    return self.model(config, encoders, rngs=nnx.Rngs(seed))


def _dit_grids(height: int, width: int) -> tuple[tuple[int, int], ...]:
  p, q = dit.DiTConfig.patch
  if height % p or width % q:
    raise InputError(
      f'latents of {height} x {width} do not divide into tokens of {p} x {q}: choose another'
      ' size of the clips, or another codec'
    )
  return ((height // p, width // q),)


def _dit_flops(
  config: dit.DiTConfig, grid: tuple[int, int, int], text: int, prompts: int, allowed: float
) -> float:
  frames, height, width = grid
  tokens = frames * (height // config.patch[0]) * (width // config.patch[1])
  return dit.forward_flops(config, tokens, text, prompts, allowed)


def _unet_grids(height: int, width: int) -> tuple[tuple[int, int], ...]:
  levels = len(unet.UNetConfig.widths) - 1
  if height % 2**levels or width % 2**levels:
    raise InputError(
      f'latents of {height} x {width} cannot be halved {levels} times, as the U-Net does: choose'
      ' another size of the clips, or another codec'
    )
  return tuple((height >> i, width >> i) for i in range(levels))


def _unet_weights(source: str, config: unet.UNetConfig) -> dict[str, Any]:
  """From an exported folder, or from open weights."""
  read = exported.load if exported.is_exported(source) else open_unet.load
  return read(source, config)


PRESETS: dict[str, Preset] = {
  'dit': Preset(
    config=dit.DiTConfig,
    model=dit.DiT,
    process=FlowMatching,
    sharding=dit.SHARDING,
    grids=_dit_grids,
    transfer=dit.transfer,
    forward_flops=_dit_flops,
    text_prefix='FPS-{fps:g}',  # As Movie Gen.
    typical=Typical(
      codec=lambda config: TAE(TAEConfig(channels=config.channels), rngs=nnx.Rngs(0)),
      # Movie Gen's, but for the long-prompt MetaCLIP, which was never released.
      encoders={'ul2': Encoder(4096, 512, 64), 'byt5': Encoder(1472, 128, 32)},
      latents=lambda config: config.grid,
      fps=24,
    ),
    pretrained=exported.load,
  ),
  'unet': Preset(
    config=unet.UNetConfig,
    model=unet.create,
    process=ZeroSNRDiffusion,
    sharding=unet.SHARDING,
    grids=_unet_grids,
    transfer=unet.transfer,
    forward_flops=unet.forward_flops,
    typical=Typical(
      codec=lambda config: SDVAE(SDVAEConfig(channels=config.channels), rngs=nnx.Rngs(0)),
      encoders={'clip': CLIP_L},
      latents=lambda config: (16, 64, 64),
      fps=6,
    ),
    pretrained=_unet_weights,
    # XLA's partitioner (jax 0.10.2) fails on it, or computes other losses than one device does.
    splits_tokens=False,
    narrow=True,
  ),
}


def preset(name: str) -> Preset:
  """The preset of that name.

  Raises:
    InputError: if there is none.
  """
  if name not in PRESETS:
    raise InputError(
      f'preset {name!r} is unknown: choose one of {sorted(PRESETS)}{nearest(name, PRESETS)}'
    )
  return PRESETS[name]
