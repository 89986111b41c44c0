"""Floating-point operations of the U-Net."""

from ttm_jax.models.unet.layers import MaskedParts
from ttm_jax.models.unet.model import UNetConfig


def forward_flops(
  config: UNetConfig, grid: tuple[int, int, int], text: int, prompts: int, allowed: float
) -> float:
  """Return the floating-point operations of one forward pass of one sample.

  Convolutions and matrix products are counted.

  Args:
    config: sizes of the U-Net.
    grid: (T', H', W') of the latents.
    text: number of caption tokens.
    prompts: number of tokens of all object prompts.
    allowed: share of the pairs that masked self-attention computes, 0 to 1.
  """
  frames, height, width = grid
  deepest = len(config.widths) - 1
  d_text = config.text_width

  def tokens(level: int) -> int:
    return frames * (height >> level) * (width >> level)

  def conv(n: int, d_in: int, d_out: int) -> float:
    return 2 * 9 * n * d_in * d_out

  def attention(n: int, d: int, keys: float) -> float:
    return 2 * n * 4 * d * d + 4 * n * keys * d

  def cross(n: int, d: int, m: int) -> float:
    return 2 * n * 2 * d * d + 2 * 2 * m * d * d_text + 4 * n * m * d

  def spatial(n: int, d: int) -> float:
    ends_and_ffn = 2 * n * (2 + 12) * d * d
    return ends_and_ffn + attention(n, d, n // frames) + cross(n, d, text)

  def unit(level: int, d_in: int, d: int) -> float:
    n = tokens(level)
    total = conv(n, d_in, d) + conv(n, d, d) + (2 * n * d_in * d if d_in != d else 0)
    total += 2 * n * (2 + 12) * d * d + 2 * attention(n, d, frames)
    return total + (spatial(n, d) if level < deepest else 0)

  def extra(level: int, masked: MaskedParts) -> float:
    n, d = tokens(level), config.widths[level]
    keys = allowed * (n // frames if masked.within_frames else n)
    own = masked.self_attention * attention(n, d, keys)
    return own + masked.cross_attention * cross(n, d, prompts)

  first, width_now = config.widths[0], config.widths[0]
  total = conv(tokens(0), config.channels + config.visual_channels, first)
  total += conv(tokens(0), first, config.channels)
  kept = [first]
  for level, d in enumerate(config.widths):
    for j in range(config.units):
      total += unit(level, width_now, d)
      total += extra(level, config.masked(level, j)) if level < deepest else 0
      width_now = d
      kept.append(d)
    if level < deepest:
      total += conv(tokens(level + 1), d, d)
      kept.append(d)
  n = tokens(deepest)
  total += 4 * conv(n, width_now, width_now) + spatial(n, width_now)
  for level, d in reversed(list(enumerate(config.widths))):
    for _ in range(config.units + 1):
      total += unit(level, width_now + kept.pop(), d)
      width_now = d
    if level:
      total += conv(tokens(level - 1), d, d)
  return total
