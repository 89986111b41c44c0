"""The Movie Gen-style diffusion transformer (paper, section 10; Movie Gen, section 3.1.3).

Each block is a LLaMa 3 block (RMSNorm, SwiGLU, no biases, full attention) with cross-attention to
the text and adaptive modulation by the time embedding. The first `num_masked_blocks` blocks also
have the two masked layers of Through-The-Mask.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

from .attention import AttentionMask, sort, unsort
from .conditioning import EVERYONE, Condition
from .layers import INIT_STD, Attention, Linear, RMSNorm, SwiGLU, TimeEmbedding
from .masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from .model import Model
from .text import EncoderConfig, TextProjector


class BlockInputs(NamedTuple):
  """The inputs of every block besides its tokens.

  Attributes:
    positions: float32 [N, d] or [B, N, d], position embedding added to the input of every block.
    modulation: float32 [B, 6, d], projection of the time embedding.
    text: float [B, M, d], the projected caption.
    text_mask: the text tokens (of M) that the video tokens may attend to.
    objects: masks and prompts of the masked layers; None makes these layers unmasked.
  """

  positions: Tensor
  modulation: Tensor
  text: Tensor
  text_mask: AttentionMask
  objects: ObjectMasks | None


class Block(nn.Module):
  """Self-attention, cross-attention, feed-forward.

  Modulation follows PixArt: all blocks share one projection of the time embedding, and each block
  adds a learned table. The order is shift, scale, gate of the self-attention, then those of the
  feed-forward. Cross-attention is normalized but not modulated.

  Args:
    width: d, channels of a token.
    heads: number of attention heads.
    ffn: hidden width of the feed-forward.
    qk_norm: whether queries and keys are normalized.
  """

  def __init__(self, width: int, heads: int, ffn: int, qk_norm: bool):
    super().__init__()
    table = INIT_STD * torch.randn(6, width)
    # Gates start at 1: with gates of 0 the network takes long to start learning.
    table[[2, 5]] += 1
    self.table = nn.Parameter(table)
    self.norm1 = RMSNorm(width)
    self.attn = Attention(width, heads, qk_norm='head' if qk_norm else None)
    self.masked_attn: nn.Module | None = None
    self.norm2 = RMSNorm(width)
    self.cross_attn = Attention(width, heads, qk_norm='head' if qk_norm else None)
    self.masked_cross_attn: nn.Module | None = None
    self.norm3 = RMSNorm(width)
    self.ffn = SwiGLU(width, ffn)

  def forward(self, h: Tensor, inputs: BlockInputs) -> Tensor:
    """Apply the block to tokens h [B, N, d]; the result is like h."""
    modulation = (inputs.modulation + self.table.float())[:, :, None].unbind(1)
    shift1, scale1, gate1, shift3, scale3, gate3 = modulation

    h = h + inputs.positions.to(h.dtype)
    h = gated_residual(h, self.attn(modulate(self.norm1(h), shift1, scale1)), gate1)
    if self.masked_attn is not None:
      h = masked_self_attention(self.masked_attn, h, inputs.objects)
    h = h + self.cross_attn(self.norm2(h), inputs.text, inputs.text_mask).to(h.dtype)
    if self.masked_cross_attn is not None:
      h = masked_cross_attention(
        self.masked_cross_attn, h, inputs.objects, inputs.text, inputs.text_mask
      )
    return gated_residual(h, self.ffn(modulate(self.norm3(h), shift3, scale3)), gate3)


class MaskedBlock(Block):
  """A block with masked self-attention and masked cross-attention (paper, section 3.3).

  Each masked layer is initialized as a copy of the block's unmasked layer, behind a gate of 0.

  Args:
    width, heads, ffn, qk_norm: as in `Block`.
    with_self, with_cross: whether the block has each of the two layers.
  """

  def __init__(
    self, width: int, heads: int, ffn: int, qk_norm: bool, with_self: bool, with_cross: bool
  ):
    super().__init__(width, heads, ffn, qk_norm)
    if with_self:
      self.masked_attn = MaskedLayer(RMSNorm(width), copy.deepcopy(self.attn))
    if with_cross:
      self.masked_cross_attn = MaskedLayer(RMSNorm(width), copy.deepcopy(self.cross_attn))


class TTMTransformer(Model):
  """The DiT denoiser: (x_t, t, condition) -> prediction.

  Attributes:
    attention: implementation of masked attention, one of `attention.IMPLEMENTATIONS`; None, the
      default, chooses by device and size.
  """

  _supports_gradient_checkpointing = True
  FLOAT32 = (
    *('positions', 'time', 'modulation', 'final_modulation', 'table', 'norm', 'norm1', 'norm2'),
    *('norm3', 'query_norm', 'key_norm', 'norms', 'alpha', 'words', 'head'),
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
    guidance_inputs: bool = False,
  ):
    """Initialize the network; the defaults are the 4B model.

    Args:
      encoders: the text encoders whose embeddings it takes.
      width: d, channels of a token.
      layers: L, number of blocks.
      heads: number of attention heads.
      ffn: hidden width of the feed-forward.
      num_masked_blocks: K, number of blocks with masked layers, the first ones.
      masked_self, masked_cross: whether these blocks have each of the two masked layers.
      channels: C, channels of the generated latents.
      visual_channels: channels of the visual condition, 0 for none.
      grid: largest latent video (T', H', W') that the position tables cover.
      patch: latents per token along (height, width).
      qk_norm: whether queries and keys are normalized (RMSNorm).
      guidance_inputs: whether guidance scales are inputs, `Condition.scales`.
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
    self.time = TimeEmbedding(width, scales=guidance_inputs)
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
    """Return the prediction (velocity or data) for noisy latents.

    Args:
      x_t: noisy latents, float [B, C, T', H', W'].
      t: diffusion time, float32 [B]: 1000 at noise, 0 at data.
      condition: text, visual condition and objects. `visual` must be given iff the model has visual
        channels. `objects.token_masks` must have one entry.

    Returns:
      float32, shaped like x_t.

    Raises:
      ValueError: if latents exceed `grid`, or channels differ from the configuration.
    """
    self._check(x_t, condition)
    b, _, frames, height, width = x_t.shape
    p, q = self.config.patch
    grid = (frames, height // p, width // q)
    h = self.embed(self._patches(x_t))
    if self.embed_visual is not None and condition.visual is not None:
      h = h + self.embed_visual(self._patches(condition.visual))
    text, text_bits = self.text(condition.text, h.dtype)
    time = silu(self.time(t, condition.scales))
    objects, positions = self._object_masks(condition, h.dtype), self._positions(grid)
    if objects is not None:
      h = sort(h, objects.order)
      positions = sort(positions.expand(h.shape), objects.order)
    everyone = torch.full((b, 1), EVERYONE, dtype=torch.int32, device=h.device)
    inputs = BlockInputs(
      positions=positions,
      modulation=self.modulation(time).float().unflatten(-1, (6, -1)),
      text=text,
      text_mask=AttentionMask.make(everyone, text_bits),
      objects=objects,
    )
    for block in (*self.masked_blocks, *self.blocks):
      if torch.is_grad_enabled() and self.gradient_checkpointing:
        h = self._gradient_checkpointing_func(block, h, inputs)
      else:
        h = block(h, inputs)
    if objects is not None:
      h = unsort(h, objects.order)
    shift, scale = self.final_modulation(time).float()[:, None].chunk(2, -1)
    out = self.head(modulate(self.norm(h), shift, scale)).float()
    out = out.reshape(b, *grid, p, q, -1)  # b t h w p q c
    return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(x_t.shape)

  def _patches(self, x: Tensor) -> Tensor:
    """Split latents [B, C, T', H', W'] into patches [B, N, p q C]."""
    b, c, t, height, width = x.shape
    p, q = self.config.patch
    cells = x.reshape(b, c, t, height // p, p, width // q, q)
    return cells.permute(0, 2, 3, 5, 4, 6, 1).reshape(b, -1, p * q * c)

  def _positions(self, grid: tuple[int, int, int]) -> Tensor:
    t, h, w = (self.positions[axis][:size].float() for axis, size in zip('thw', grid, strict=True))
    return (t[:, None, None] + h[:, None] + w).flatten(0, 2)

  def _object_masks(self, condition: Condition, dtype: torch.dtype) -> ObjectMasks | None:
    if condition.objects is None or not self.config.num_masked_blocks:
      return None
    (masks,) = condition.objects.token_masks
    prompts, bits = self.text(condition.objects.prompts, dtype, prompts=True)
    return ObjectMasks.make(masks, prompts, bits, self.attention)

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
  """Return x (1 + scale) + shift, computed in float32 and cast to the dtype of x.

  Args:
    x: float [B, N, d].
    shift, scale: float32 [B, 1, d].
  """
  return (x.float() * (1 + scale) + shift).to(x.dtype)


def gated_residual(h: Tensor, y: Tensor, gate: Tensor) -> Tensor:
  """Return h + gate y, computed in float32 and cast to the dtype of h.

  Args:
    h, y: float [B, N, d].
    gate: float32 [B, 1, d].
  """
  return (h.float() + gate * y.float()).to(h.dtype)
