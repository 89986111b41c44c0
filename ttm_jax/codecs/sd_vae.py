"""The image autoencoder of Stable Diffusion 1.5, applied per frame (Rombach et al. 2022).

The architecture is `AutoencoderKL` of diffusers; `codecs.sd_vae_convert` reads its open weights.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttm_jax.codecs.base import Moments, check_frames, check_pixels
from ttm_jax.codecs.inflated import Pointwise
from ttm_jax.codecs.tae import Decoder, Encoder, TAEConfig
from ttm_jax.codecs.tiling import in_pieces

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SDVAEConfig:
  """Configuration of the autoencoder; defaults: Stable Diffusion 1.5 (stride 8 x 8, 4 channels).

  Attributes:
    channels, base_channels, multipliers, res_blocks, dtype: see `TAEConfig`.
    scale: factor by which raw latents are multiplied, for about unit variance.
    frames: number of frames processed at once, which bounds the memory.
  """

  channels: int = 4
  base_channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  res_blocks: int = 2
  scale: float = 0.18215
  frames: int = 1
  dtype: str = 'float32'

  @property
  def image(self) -> TAEConfig:
    """The same configuration for `tae.Encoder` and `tae.Decoder`, without temporal layers."""
    return TAEConfig(
      channels=self.channels,
      base_channels=self.base_channels,
      multipliers=self.multipliers,
      res_blocks=self.res_blocks,
      temporal_downsamples=0,
      dtype=self.dtype,
      inflated=False,
    )


class SDVAE(nnx.Module):
  """An image codec: each pixel frame has its own latent frame.

  Args:
    config: size of the autoencoder.
    rngs: random number generators for the initial parameters.
  """

  def __init__(self, config: SDVAEConfig, *, rngs: nnx.Rngs):
    image, dtype, c = config.image, jnp.dtype(config.dtype), config.channels
    self.config = config
    self.encoder = Encoder(image, rngs=rngs)
    self.quant = Pointwise(2 * c, 2 * c, dtype=dtype, rngs=rngs)
    self.post_quant = Pointwise(c, c, dtype=dtype, rngs=rngs)
    self.decoder = Decoder(image, rngs=rngs)

  @property
  def channels(self) -> int:
    return self.config.channels

  @property
  def stride(self) -> tuple[int, int]:
    return (self.config.image.stride[1],) * 2

  def num_frames(self, latents: int) -> int:
    return latents

  def frame_groups(self, num_frames: int) -> np.ndarray:
    return np.arange(num_frames)

  def encode(self, video: Array) -> Moments:
    check_pixels(video, self.stride)

    def moments(frames: Array) -> Array:
      return self.quant(self.encoder(frames)).astype(jnp.float32)

    mean, logvar = jnp.split(in_pieces(moments, video, self.config.frames), 2, axis=-1)
    scale = self.config.scale
    return Moments(mean * scale, jnp.clip(logvar, -30, 20) + 2 * np.log(scale))

  def decode(self, latents: Array, num_frames: int) -> Array:
    check_frames(latents, num_frames, 1)

    def pixels(frames: Array) -> Array:
      return self.decoder(self.post_quant(frames))

    video = in_pieces(pixels, latents / self.config.scale, self.config.frames)
    return jnp.clip(video, -1, 1)
