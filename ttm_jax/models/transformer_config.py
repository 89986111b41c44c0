"""The sizes that transformers of stacked blocks share."""

import dataclasses

from ttm_jax.ops import rematerialization


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes of a transformer whose first blocks have masked layers.

  Attributes:
    width: d, channels of a token.
    layers: number of blocks.
    heads: number of attention heads.
    ffn: hidden width of the feed-forward network.
    masked_blocks: K, the number of leading blocks with the extra layers.
    masked_self: whether these blocks have masked self-attention (ablations).
    masked_cross: whether these blocks have masked cross-attention (ablations).
    masked_init: how these layers are initialized, a name in `nn.masked_attention.MASKED_INITS`.
    channels: C of the generated latents.
    visual_channels: channels of the visual condition; their input weights are initialized to zero.
    guidance_inputs: whether guidance scales are inputs (see `guidance_inputs.py`).
    dtype: compute dtype, 'bfloat16' or 'float32'.
    remat: what the backward pass recomputes of each block: 'none', 'dots' (all but matrix products
      and attention), 'full', or 'offload' (all; block inputs are offloaded to host memory).
    unroll: blocks per iteration of the layer loop. CPUs run fastest with all blocks; accelerators
      compile fastest with 1.

  Raises:
    ValueError: if a field is out of range.
  """

  width: int
  layers: int
  heads: int
  ffn: int
  masked_blocks: int = 0
  masked_self: bool = True
  masked_cross: bool = True
  masked_init: str = 'gate'
  channels: int = 16
  visual_channels: int = 0
  guidance_inputs: bool = False
  dtype: str = 'bfloat16'
  remat: str = 'full'
  unroll: int = 1

  def __post_init__(self):
    rematerialization.check(self.remat)
    if self.width % self.heads:
      raise ValueError(f'width {self.width} must be a multiple of heads {self.heads}')
    if not 0 <= self.masked_blocks <= self.layers:
      raise ValueError(f'masked_blocks must be 0 to {self.layers}, got {self.masked_blocks}')

  @property
  def head_dim(self) -> int:
    """Channels of one head."""
    return self.width // self.heads
