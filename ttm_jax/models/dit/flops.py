"""Floating-point operations of the DiT."""

from ttm_jax.models.dit.model import DiTConfig


def forward_flops(config: DiTConfig, tokens: int, text: int, prompts: int, allowed: float) -> float:
  """Return the floating-point operations of one forward pass of one sample (matrix products only).

  Args:
    config: sizes of the transformer.
    tokens: N, the tokens of the video.
    text: number of caption tokens.
    prompts: number of tokens of all object prompts.
    allowed: share of the N x N pairs that masked self-attention computes, 0 to 1.
  """
  d, f = config.width, config.ffn
  projections = 2 * tokens * 4 * d * d
  plain = projections + 4 * tokens * tokens * d
  cross = 2 * (2 * tokens + 2 * text) * d * d + 4 * tokens * text * d
  block = plain + cross + 2 * tokens * 3 * d * f
  extra = 0.0
  if config.masked_self:
    extra += projections + allowed * 4 * tokens * tokens * d
  if config.masked_cross:
    extra += 2 * (2 * tokens + 2 * prompts) * d * d + 4 * tokens * prompts * d
  area = config.patch[0] * config.patch[1]
  ends = 2 * tokens * d * area * (2 * config.channels + config.visual_channels)
  return config.layers * block + config.masked_blocks * extra + ends
