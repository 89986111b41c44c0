"""The toy backbone in PyTorch (see `toy`)."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import silu

from ttm_jax.pytorch.attention import AttentionMask
from ttm_jax.pytorch.conditioning import Condition
from ttm_jax.pytorch.layers import Attention, Linear, RMSNorm, TimeEmbedding
from ttm_jax.pytorch.masked_attention import MaskedLayer
from ttm_jax.pytorch.model import Model
from ttm_jax.pytorch.text import EncoderConfig, TextProjector


class ToyNetwork(Model):
  """PyTorch counterpart of `toy.Toy`."""

  @register_to_config
  def __init__(
    self,
    encoders: Sequence[EncoderConfig],
    width: int,
    heads: int,
    num_masked_blocks: int,
    channels: int,
    visual_channels: int,
  ):
    super().__init__()
    self.embed = Linear(channels + visual_channels, width)
    self.text = TextProjector(encoders, width)
    self.time = TimeEmbedding(width)
    self.norm = RMSNorm(width)
    self.attn = Attention(width, heads)
    self.masked_attn = (
      MaskedLayer(RMSNorm(width), Attention(width, heads)) if num_masked_blocks else None
    )
    self.head = Linear(width, channels)

  def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    latents = [x_t] if condition.visual is None else [x_t, condition.visual]
    h = self.embed(torch.cat(latents, 1).flatten(2).transpose(1, 2))
    text, bits = self.text(condition.text, h.dtype)
    counts = (bits != 0)[..., None]
    h = h + silu(self.time(t))[:, None] + (text * counts).sum(1, keepdim=True)
    h = h + self.attn(self.norm(h))
    if self.masked_attn is not None:
      mask = None
      if condition.objects is not None:
        region = condition.objects.token_masks[0].region.flatten(1)
        mask = AttentionMask.make(region, region)
      h = self.masked_attn(h, None, mask)
    return self.head(h).transpose(1, 2).reshape(x_t.shape).float()
