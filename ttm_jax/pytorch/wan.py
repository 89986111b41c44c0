"""The transformer of Wan with the masked layers of Through-The-Mask.

`TTMWanTransformer` extends `WanTransformer3DModel` of diffusers: shared weights keep its names and
load there unchanged. The first `num_masked_blocks` blocks have the two masked layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from .attention import sort, unsort
from .conditioning import Condition, Text
from .layers import Attention, ScaleEmbedding, with_scales
from .masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from .model import Model
from .text import WORDS, EncoderConfig, WordEncoder

EPS = 1e-6


class BlockInputs(NamedTuple):
  """The inputs of every block besides its tokens.

  Attributes:
    rotation: cosine and sine of the rotary embedding, float32 [B or 1, N, 1, D] each, as in
      diffusers (each value twice).
    modulation: float32 [B, 1 or N, 6, d], projection of the time embedding.
    text: float [B, M, d], the embedded caption.
    objects: masks and prompts of the masked layers; None makes these layers unmasked.
  """

  rotation: tuple[Tensor, Tensor]
  modulation: Tensor
  text: Tensor
  objects: ObjectMasks | None


class Block(WanTransformerBlock):
  """A block of Wan, with masked layers if they are added.

  Attributes:
    masked_attn, masked_cross_attn: the masked layers, or None.
  """

  def __init__(self, width: int, ffn: int, heads: int):
    super().__init__(width, ffn, heads, cross_attn_norm=True, eps=EPS)
    self.masked_attn: nn.Module | None = None
    self.masked_cross_attn: nn.Module | None = None

  def add_masked_layers(self, width: int, heads: int, with_self: bool, with_cross: bool) -> None:
    """Add masked self-attention and masked cross-attention, each behind a gate of 0."""

    def layer() -> MaskedLayer:
      attention = Attention(width, heads, qk_norm='width', qkv_bias=True, out_bias=True, eps=EPS)
      return MaskedLayer(FP32LayerNorm(width, EPS), attention)

    if with_self:
      self.masked_attn = layer()
    if with_cross:
      self.masked_cross_attn = layer()

  def forward(self, h: Tensor, inputs: BlockInputs) -> Tensor:
    """Apply the block to tokens h [B, N, d]; the result is like h."""
    modulation = (inputs.modulation + self.scale_shift_table.float()).unbind(2)
    shift1, scale1, gate1, shift3, scale3, gate3 = modulation

    normed = (self.norm1(h.float()) * (1 + scale1) + shift1).to(h.dtype)
    attended = self.attn1(normed, None, None, inputs.rotation)
    h = (h.float() + gate1 * attended.float()).to(h.dtype)
    if self.masked_attn is not None:
      half = (inputs.rotation[0][..., 0::2], inputs.rotation[1][..., 1::2])
      h = masked_self_attention(self.masked_attn, h, inputs.objects, half)
    h = h + self.attn2(self.norm2(h.float()).to(h.dtype), inputs.text, None, None)
    if self.masked_cross_attn is not None:
      h = masked_cross_attention(self.masked_cross_attn, h, inputs.objects, inputs.text, None)
    normed = (self.norm3(h.float()) * (1 + scale3) + shift3).to(h.dtype)
    return (h.float() + gate3 * self.ffn(normed).float()).to(h.dtype)


class TTMWanTransformer(Model, WanTransformer3DModel):
  """The denoiser: (x_t, t, condition) -> prediction.

  Attributes:
    attention: implementation of masked attention, one of `attention.IMPLEMENTATIONS`; None, the
      default, chooses by device and size.
  """

  FLOAT32 = (
    *('rope', 'time_embedder', 'time_proj', 'scale_shift_table', 'norm1', 'norm2', 'norm3', 'norm'),
    *('query_norm', 'key_norm', 'alpha', 'words', 'proj_out', 'scales'),
  )
  _no_split_modules = ['Block']  # noqa: RUF012
  _repeated_blocks = ['Block']  # noqa: RUF012

  @register_to_config
  def __init__(
    self,
    encoders: Sequence[EncoderConfig],
    num_layers: int = 30,
    num_attention_heads: int = 12,
    attention_head_dim: int = 128,
    ffn_dim: int = 8960,
    in_channels: int = 16,
    out_channels: int = 16,
    text_dim: int = 4096,
    visual_channels: int = 0,
    num_masked_blocks: int = 0,
    masked_self: bool = True,
    masked_cross: bool = True,
    guidance_inputs: bool = False,
  ):
    """Initialize the network; the defaults are Wan 2.1 T2V 1.3B.

    Args:
      encoders: the text encoder whose embeddings it takes, a list of one.
      num_layers: number of blocks.
      num_attention_heads: number of attention heads.
      attention_head_dim: channels of a head.
      ffn_dim: hidden width of the feed-forward.
      in_channels, out_channels: C, channels of the generated latents.
      text_dim: channels of the text embeddings.
      visual_channels: channels of the visual condition, 0 for none.
      num_masked_blocks: K, number of blocks with masked layers, the first ones.
      masked_self, masked_cross: whether these blocks have each of the two masked layers.
      guidance_inputs: whether guidance scales are inputs, `Condition.scales`.
    """
    # The blocks of diffusers are replaced, so that none are made first.
    super().__init__(
      num_attention_heads=num_attention_heads,
      attention_head_dim=attention_head_dim,
      in_channels=in_channels,
      out_channels=out_channels,
      text_dim=text_dim,
      ffn_dim=ffn_dim,
      num_layers=0,
    )
    width = num_attention_heads * attention_head_dim
    self.blocks = nn.ModuleList(
      Block(width, ffn_dim, num_attention_heads) for _ in range(num_layers)
    )
    for block in list(self.blocks)[:num_masked_blocks]:
      assert isinstance(block, Block)
      block.add_masked_layers(width, num_attention_heads, masked_self, masked_cross)
    self.patch_embedding_visual = None
    if visual_channels:
      patch = self.config.patch_size
      self.patch_embedding_visual = nn.Conv3d(visual_channels, width, patch, patch, bias=False)
      nn.init.zeros_(self.patch_embedding_visual.weight)
    self.scales = ScaleEmbedding(width) if guidance_inputs else None
    ((encoder),) = encoders
    self.words = WordEncoder(encoder['dim']) if encoder['name'] == WORDS else None
    self.encoder = encoder
    self.register_to_config(num_layers=num_layers)
    self.attention: str | None = None

  def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Return the prediction for noisy latents.

    Args:
      x_t: noisy latents, float [B, C, T', H', W'].
      t: diffusion time, float32: [B], or [B, T'] with a time for each latent frame. 1000 at noise,
        0 at data.
      condition: text, visual condition and objects. `visual` must be given iff the model has visual
        channels. `objects.token_masks` must have one entry.

    Returns:
      float32, shaped like x_t.

    Raises:
      ValueError: if channels differ from the configuration.
    """
    self._check(x_t, condition)
    b, _, frames, height, width = x_t.shape
    _, p, q = self.config.patch_size
    rows, columns = height // p, width // q
    dtype = self.patch_embedding.weight.dtype
    rotation: Any = self.rope(x_t)
    h = self.patch_embedding(x_t.to(dtype))
    if self.patch_embedding_visual is not None and condition.visual is not None:
      h = h + self.patch_embedding_visual(condition.visual.to(dtype))
    h = h.flatten(2).transpose(1, 2).contiguous()
    text, _ = self._text(condition.text, h.dtype)
    time, modulation = self._time(t.reshape(b, -1), condition.scales)
    if time.shape[1] > 1:
      time, modulation = (x.repeat_interleave(rows * columns, 1) for x in (time, modulation))
    objects = self._object_masks(condition, h.dtype)
    sorted_modulation = modulation
    if objects is not None:
      order = objects.order
      h = sort(h, order)
      rotation = tuple(sort(x.expand(b, -1, -1, -1), order) for x in rotation)
      if modulation.shape[1] > 1:
        sorted_modulation = sort(modulation, order)
    inputs = BlockInputs(rotation, sorted_modulation, text, objects)
    for block in self.blocks:
      if torch.is_grad_enabled() and self.gradient_checkpointing:
        h = self._gradient_checkpointing_func(block, h, inputs)
      else:
        h = block(h, inputs)
    if objects is not None:
      h = unsort(h, objects.order)
    shift, scale = (self.scale_shift_table.float()[:, None] + time[:, :, None]).unbind(2)
    h = (self.norm_out(h.float()) * (1 + scale) + shift).to(self.proj_out.weight.dtype)
    out = self.proj_out(h).float()
    out = out.reshape(b, frames, rows, columns, p, q, -1)  # b t h w p q c
    return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(x_t.shape)

  def _time(self, t: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the embedding [B, F, d] of t [B, F] and its projection [B, F, 6, d], float32.

    It includes that of guidance scales [B, 2], if the network takes them.
    """
    embedder = self.condition_embedder
    waves = embedder.timesteps_proj(t.flatten()).unflatten(0, t.shape)
    time = embedder.time_embedder(waves.to(embedder.time_proj.weight.dtype)).float()
    time = with_scales(time, self.scales, scales)
    projected = embedder.time_proj(embedder.act_fn(time).to(embedder.time_proj.weight.dtype))
    return time, projected.float().unflatten(-1, (6, -1))

  def _text(self, text: Text, dtype: torch.dtype, prompts: bool = False) -> tuple[Tensor, Tensor]:
    """Return the embedded tokens [B, N, d] and their object sets, int32 [B, N]."""
    tokens = text[self.encoder['name']]
    embedding = tokens.embedding
    if self.words is not None:
      length = self.encoder['prompt_length' if prompts else 'length']
      embedding = self.words(embedding, tokens.bits, length)
    # Wan reads the padding of captions too, as zeros.
    embedding = torch.where(tokens.bits[..., None] != 0, embedding, 0)
    return self.condition_embedder.text_embedder(embedding.to(dtype)), tokens.bits

  def _object_masks(self, condition: Condition, dtype: torch.dtype) -> ObjectMasks | None:
    if condition.objects is None or not self.config.num_masked_blocks:
      return None
    (masks,) = condition.objects.token_masks
    prompts, bits = self._text(condition.objects.prompts, dtype, prompts=True)
    return ObjectMasks.make(masks, prompts, bits, self.attention)

  def _check(self, x_t: Tensor, condition: Condition) -> None:
    config: Any = self.config
    got = 0 if condition.visual is None else condition.visual.shape[1]
    if x_t.shape[1] != config.in_channels or got != config.visual_channels:
      raise ValueError(
        f'the model takes {config.in_channels} channels of noisy latents and'
        f' {config.visual_channels} of visual condition, got {x_t.shape[1]} and {got}'
      )
