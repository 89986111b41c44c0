"""Floating-point operations of a transformer with self- and cross-attention."""

from ttm_jax.models.transformer_config import TransformerConfig


def forward_flops(
  config: TransformerConfig,
  latents: tuple[int, int, int],
  text: int,
  prompts: int,
  allowed: float,
  *,
  patch: tuple[int, int],
  ffn_kernels: int,
) -> float:
  """Return the floating-point operations of one forward pass of one sample (matrix products only).

  Args:
    config: sizes of the transformer.
    latents: (T', H', W').
    text: number of caption tokens.
    prompts: number of tokens of all object prompts.
    allowed: share of the token pairs that masked self-attention computes, 0 to 1.
    patch: latents per token along (height, width).
    ffn_kernels: number of [width, ffn] kernels of a feed-forward network, 3 if it is gated.
  """
  frames, height, width = latents
  tokens = frames * (height // patch[0]) * (width // patch[1])
  d, f = config.width, config.ffn
  projections = 2 * tokens * 4 * d * d
  plain = projections + 4 * tokens * tokens * d
  cross = 2 * (2 * tokens + 2 * text) * d * d + 4 * tokens * text * d
  block = plain + cross + 2 * tokens * ffn_kernels * d * f
  extra = 0.0
  if config.masked_self:
    extra += projections + allowed * 4 * tokens * tokens * d
  if config.masked_cross:
    extra += 2 * (2 * tokens + 2 * prompts) * d * d + 4 * tokens * prompts * d
  area = patch[0] * patch[1]
  ends = 2 * tokens * d * area * (2 * config.channels + config.visual_channels)
  return config.layers * block + config.masked_blocks * extra + ends
