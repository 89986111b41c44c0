"""The Movie Gen-style diffusion transformer (paper, section 10; Movie Gen, section 3.1.3).

A LLaMa-3 block (RMSNorm, SwiGLU, no biases, full attention) with cross-attention to the text and
adaptive modulation by the time. Its first `num_masked_blocks` blocks carry the two extra layers of
Through-The-Mask.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

from .attention import AttentionMask, sort, sort_by_object, unsort
from .conditioning import EVERYONE, Condition
from .layers import INIT_STD, Attention, Linear, RMSNorm, SwiGLU, TimeEmbedding
from .model import Model
from .object_layers import GatedResidual, Masks, masked_cross, masked_self
from .text import EncoderConfig, TextProjector


class Context(NamedTuple):
  """What every block is given besides its tokens.

  Attributes:
    positions: float32 [N, d] or [B, N, d], added to the input of every block.
    modulation: float32 [B, 6, d], from the time.
    text: [B, M, d]; read: which token may read which of it.
    masks: for the masked blocks; None makes their extra layers plain ones.
  """

  positions: Tensor
  modulation: Tensor
  text: Tensor
  read: AttentionMask
  masks: Masks | None


class Block(nn.Module):
  """Self-attention, cross-attention, feed-forward.

  Modulation is PixArt's: one projection of the time for all blocks plus a learnt table of each, in
  the order shift, scale, gate of the self-attention, then of the feed-forward. Cross-attention is
  normalised but not modulated.
  """

  def __init__(self, width: int, heads: int, ffn: int, qk_norm: bool):
    super().__init__()
    table = INIT_STD * torch.randn(6, width)
    # Gates start open: with all of them closed a network takes long to begin to learn.
    table[[2, 5]] += 1
    self.table = nn.Parameter(table)
    self.self_norm = RMSNorm(width)
    self.self_attention = Attention(width, heads, qk_norm=qk_norm)
    self.cross_norm = RMSNorm(width)
    self.cross_attention = Attention(width, heads, qk_norm=qk_norm)
    self.ffn_norm = RMSNorm(width)
    self.ffn = SwiGLU(width, ffn)

  def enter(self, h: Tensor, context: Context) -> Tensor:
    """Positions and self-attention."""
    shift, scale, gate = self._modulation(context)[:3]
    h = h + context.positions.to(h.dtype)
    return modulated(h, self.self_attention(modulate(self.self_norm(h), shift, scale)), gate)

  def read(self, h: Tensor, context: Context) -> Tensor:
    """Cross-attention to the text."""
    return h + self.cross_attention(self.cross_norm(h), context.text, context.read).to(h.dtype)

  def leave(self, h: Tensor, context: Context) -> Tensor:
    """Feed-forward."""
    shift, scale, gate = self._modulation(context)[3:]
    return modulated(h, self.ffn(modulate(self.ffn_norm(h), shift, scale)), gate)

  def forward(self, h: Tensor, context: Context) -> Tensor:
    return self.leave(self.read(self.enter(h, context), context), context)

  def _modulation(self, context: Context) -> tuple[Tensor, ...]:
    return (context.modulation + self.table.float())[:, :, None].unbind(1)


class MaskedBlock(Block):
  """A block with the two extra layers: self, masked self, cross, masked cross, feed-forward.

  The extra attentions start as copies of their siblings, behind closed gates.
  """

  def __init__(
    self, width: int, heads: int, ffn: int, qk_norm: bool, with_self: bool, with_cross: bool
  ):
    super().__init__(width, heads, ffn, qk_norm)

    def extra(sibling: Attention) -> GatedResidual:
      return GatedResidual(RMSNorm(width), copy.deepcopy(sibling))

    self.masked_self = extra(self.self_attention) if with_self else None
    self.masked_cross = extra(self.cross_attention) if with_cross else None

  def forward(self, h: Tensor, context: Context) -> Tensor:
    h = self.enter(h, context)
    if self.masked_self is not None:
      h = masked_self(self.masked_self, h, context.masks)
    h = self.read(h, context)
    if self.masked_cross is not None:
      h = masked_cross(self.masked_cross, h, context.masks, context.text, context.read)
    return self.leave(h, context)


class TTMTransformer(Model):
  """The denoiser: (x_t, t, condition) -> prediction.

  Attributes:
    attention: which way masked attention is computed (`attention.IMPLEMENTATIONS`); None, the
      default, chooses by device and size.
  """

  _supports_gradient_checkpointing = True
  FLOAT32 = (
    *('positions', 'time', 'modulation', 'final_modulation', 'table', 'norm', 'self_norm'),
    *('cross_norm', 'ffn_norm', 'query_norm', 'key_norm', 'norms', 'alpha', 'words', 'head'),
  )

  @register_to_config
  def __init__(
    self,
    encoders: Sequence[EncoderConfig],
    width: int = 2560,
    layers: int = 40,
    heads: int = 20,
    ffn: int = 6144,
    num_masked_blocks: int = 0,
    masked_self: bool = True,
    masked_cross: bool = True,
    channels: int = 16,
    visual_channels: int = 0,
    grid: Sequence[int] = (16, 32, 32),
    patch: Sequence[int] = (2, 2),
    qk_norm: bool = True,
  ):
    """The defaults are the 4B model.

    Args:
      encoders: the text encoders that it reads.
      width, layers, heads, ffn: d, L, heads and hidden width of the feed-forward.
      num_masked_blocks: K, how many of the first blocks carry the extra layers.
      masked_self, masked_cross: whether these blocks have each of the two.
      channels: C of the latents that are generated.
      visual_channels: channels of the visual condition.
      grid: the largest latent video (T', H', W') that the position tables can place.
      patch: latents a token covers along (height, width).
      qk_norm: RMSNorm on queries and keys.
    """
    super().__init__()
    area = patch[0] * patch[1]
    sizes = (width, heads, ffn, qk_norm)
    tokens = zip('thw', (grid[0], grid[1] // patch[0], grid[2] // patch[1]), strict=True)
    self.embed = Linear(area * channels, width)
    self.embed_visual = (
      Linear(area * visual_channels, width, zero=True) if visual_channels else None
    )
    self.positions = nn.ParameterDict(
      {axis: nn.Parameter(INIT_STD * torch.randn(size, width)) for axis, size in tokens}
    )
    self.text = TextProjector(encoders, width)
    self.time = TimeEmbedding(width)
    self.modulation = Linear(width, 6 * width, bias=True, zero=True)
    self.masked_blocks = nn.ModuleList(
      MaskedBlock(*sizes, masked_self, masked_cross) for _ in range(num_masked_blocks)
    )
    self.blocks = nn.ModuleList(Block(*sizes) for _ in range(layers - num_masked_blocks))
    self.norm = RMSNorm(width)
    self.final_modulation = Linear(width, 2 * width, bias=True, zero=True)
    self.head = Linear(width, area * channels, bias=True, zero=True)
    self.attention: str | None = None
    self.gradient_checkpointing = False

  def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Predicts at one time.

    Args:
      x_t: noisy latents, float [B, C, T', H', W'].
      t: time as the network takes it, float32 [B]: 1000 at noise, 0 at data.
      condition: see `Condition`; `visual` must be there iff the model has visual channels, with
        one entry of `places` where objects are given.

    Returns:
      float32, like x_t.

    Raises:
      ValueError: where shapes do not fit the configuration.
    """
    self._check(x_t, condition)
    b, _, frames, height, width = x_t.shape
    p, q = self.config.patch
    grid = (frames, height // p, width // q)
    h = self.embed(self._patches(x_t))
    if self.embed_visual is not None and condition.visual is not None:
      h = h + self.embed_visual(self._patches(condition.visual))
    text, text_bits = self.text(condition.text, h.dtype)
    time = silu(self.time(t))
    masks, positions = self._masks(condition, h.dtype), self._positions(grid)
    if masks is not None:
      h = sort(h, masks.order)
      positions = sort(positions.expand(h.shape), masks.order)
    everyone = torch.full((b, 1), EVERYONE, dtype=torch.int32, device=h.device)
    context = Context(
      positions=positions,
      modulation=self.modulation(time).float().unflatten(-1, (6, -1)),
      text=text,
      read=AttentionMask.make(everyone, text_bits),
      masks=masks,
    )
    for block in (*self.masked_blocks, *self.blocks):
      if torch.is_grad_enabled() and self.gradient_checkpointing:
        h = self._gradient_checkpointing_func(block, h, context)
      else:
        h = block(h, context)
    if masks is not None:
      h = unsort(h, masks.order)
    shift, scale = self.final_modulation(time).float()[:, None].chunk(2, -1)
    out = self.head(modulate(self.norm(h), shift, scale)).float()
    out = out.reshape(b, *grid, p, q, -1)  # b t h w p q c
    return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(x_t.shape)

  def _patches(self, x: Tensor) -> Tensor:
    """[B, C, T', H', W'] -> [B, N, p q C]."""
    b, c, t, height, width = x.shape
    p, q = self.config.patch
    cells = x.reshape(b, c, t, height // p, p, width // q, q)
    return cells.permute(0, 2, 3, 5, 4, 6, 1).reshape(b, -1, p * q * c)

  def _positions(self, grid: tuple[int, int, int]) -> Tensor:
    t, h, w = (self.positions[axis][:size].float() for axis, size in zip('thw', grid, strict=True))
    return (t[:, None, None] + h[:, None] + w).flatten(0, 2)

  def _masks(self, condition: Condition, dtype: torch.dtype) -> Masks | None:
    if condition.objects is None or not self.config.num_masked_blocks:
      return None
    (places,) = condition.objects.places
    prompts, bits = self.text(condition.objects.prompts, dtype, prompts=True)
    region, present = places.region.flatten(1), places.present.flatten(1)
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order)
    own = AttentionMask.make(region, region, self.attention)
    return Masks(order, own, prompts, AttentionMask.make(present, bits, self.attention))

  def _check(self, x_t: Tensor, condition: Condition) -> None:
    config = self.config
    if any(size > most for size, most in zip(x_t.shape[2:], config.grid, strict=True)):
      raise ValueError(f'latents of {tuple(x_t.shape[2:])} exceed the grid {tuple(config.grid)}')
    got = 0 if condition.visual is None else condition.visual.shape[1]
    if x_t.shape[1] != config.channels or got != config.visual_channels:
      raise ValueError(
        f'the model takes {config.channels} channels of noisy latents and {config.visual_channels}'
        f' of visual condition, got {x_t.shape[1]} and {got}'
      )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
  """x (1 + scale) + shift, in float32; x [B, N, d], shift and scale [B, 1, d]."""
  return (x.float() * (1 + scale) + shift).to(x.dtype)


def modulated(h: Tensor, y: Tensor, gate: Tensor) -> Tensor:
  """The residual h + gate y, in float32."""
  return (h.float() + gate * y.float()).to(h.dtype)
