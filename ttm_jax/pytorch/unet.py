"""The U-Net of the paper: `UNetMotionModel` of diffusers with masked layers.

All modules of diffusers keep their names. So without masked layers the network is a diffusers
model, and weights of the shared modules can be loaded in both directions. The first `masked_blocks`
transformers of the encoder have two more layers, `masked_attn` and `masked_cross_attn` (paper,
section 3.3).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNetMotionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import group_norm

from .attention import AttentionMask, sort, sort_by_object, unsort
from .conditioning import EVERYONE, Condition, Text, TokenMasks
from .layers import Attention, ScaleEmbedding, with_scales
from .masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from .model import Model
from .text import EncoderConfig, TextProjector

SCOPES = ('spatiotemporal', 'spatial', 'skip_level0')
MOTION_NORMS = ('clip', 'frame')


class Level(NamedTuple):
  """The inputs of the transformers at one resolution besides their tokens.

  Attributes:
    text: float [B, M, d], the projected caption.
    read: the text tokens (of M) that the video tokens may attend to.
    text_of_frames: `text` repeated for each frame, [B T, M, d], and its additive attention bias
      [B T, 1, M], 0 for text and -inf for padding.
    masks: inputs of the masked layers; None makes these layers unmasked. If masked self-attention
      is within frames, `order` and `self_mask` have one row per frame, [B T, H W]; otherwise one
      row per clip, [B, T H W].
  """

  text: Tensor
  read: AttentionMask
  text_of_frames: tuple[Tensor, Tensor]
  masks: ObjectMasks | None


class TTMUNet(Model, UNetMotionModel):
  """The U-Net denoiser: (x_t, t, condition) -> prediction.

  Attributes:
    attention: implementation of masked attention, one of `attention.IMPLEMENTATIONS`; None, the
      default, chooses by device and size.
  """

  FLOAT32 = ('time_embedding', 'scales', 'words', 'norms', 'alpha')

  @register_to_config
  def __init__(
    self,
    encoders: Sequence[EncoderConfig],
    in_channels: int = 4,
    out_channels: int = 4,
    down_block_types: Sequence[str] = ('CrossAttnDownBlockMotion',) * 3 + ('DownBlockMotion',),
    up_block_types: Sequence[str] = ('UpBlockMotion',) + ('CrossAttnUpBlockMotion',) * 3,
    block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
    layers_per_block: int = 2,
    norm_num_groups: int = 32,
    cross_attention_dim: int = 768,
    num_attention_heads: int = 8,
    motion_num_attention_heads: int = 8,
    motion_max_seq_length: int = 32,
    use_motion_mid_block: bool = False,
    masked_blocks: int = 0,
    masked_self: bool = True,
    masked_cross: bool = True,
    masked_scope: str = 'spatiotemporal',
    motion_norm: str = 'clip',
    guidance_inputs: bool = False,
  ):
    """Initialize the network; the defaults are Stable Diffusion 1.5 with AnimateDiff v3.

    Arguments that are not listed are those of `UNetMotionModel`.

    Args:
      encoders: the text encoders whose embeddings it takes.
      in_channels: channels of the noisy latents plus those of the visual condition, which is
        concatenated after them.
      out_channels: channels of the generated latents.
      masked_blocks: K, number of transformers with masked layers, the first ones of the encoder.
      masked_self, masked_cross: whether these have each of the two masked layers.
      masked_scope: scope of masked self-attention: 'spatiotemporal' (over all frames), 'spatial'
        (within each frame), or 'skip_level0' (over all frames, omitted at the finest level).
      motion_norm: statistics of the first norm of a motion module: over the 'clip' (as in
        diffusers) or each 'frame' (as in AnimateDiff's code).
      guidance_inputs: whether guidance scales are inputs, `Condition.scales`.

    Raises:
      ValueError: if masked_scope or motion_norm is unknown.
    """
    for name, value, known in (
      ('masked_scope', masked_scope, SCOPES),
      ('motion_norm', motion_norm, MOTION_NORMS),
    ):
      if value not in known:
        raise ValueError(f'{name} must be one of {known}, got {value!r}')
    super().__init__(
      in_channels=in_channels,
      out_channels=out_channels,
      down_block_types=tuple(down_block_types),
      up_block_types=tuple(up_block_types),
      block_out_channels=tuple(block_out_channels),
      layers_per_block=layers_per_block,
      norm_num_groups=norm_num_groups,
      cross_attention_dim=cross_attention_dim,
      num_attention_heads=num_attention_heads,
      motion_num_attention_heads=motion_num_attention_heads,
      motion_max_seq_length=motion_max_seq_length,
      use_motion_mid_block=use_motion_mid_block,
    )
    self.text = TextProjector(encoders, cross_attention_dim, as_they_are=True)
    self.scales = ScaleEmbedding(4 * block_out_channels[0]) if guidance_inputs else None
    # (has masked self-attention, has masked cross-attention) by (level, unit) of the encoder.
    self._masked: dict[tuple[int, int], tuple[bool, bool]] = {}
    for number in range(masked_blocks):
      level, unit = divmod(number, layers_per_block)
      block = self.down_blocks[level].attentions[unit].transformer_blocks[0]
      d = block_out_channels[level]
      with_self = masked_self and not (masked_scope == 'skip_level0' and level == 0)
      self._masked[level, unit] = with_self, masked_cross
      for name, wanted, norm, sibling, d_context in (
        ('masked_attn', with_self, block.norm1, block.attn1, None),
        ('masked_cross_attn', masked_cross, block.norm2, block.attn2, cross_attention_dim),
      ):
        if wanted:
          setattr(block, name, _extra(norm, sibling, d, num_attention_heads, d_context))
    self.attention: str | None = None

  def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Return the prediction (v or data) for noisy latents.

    Args:
      x_t: noisy latents, float [B, C, T', H', W'].
      t: diffusion time, float32 [B]: the index of the noising step.
      condition: text, visual condition and objects. `visual` must be given iff the model has visual
        channels. `objects.token_masks` must have one entry per level with transformers; entries of
        coarser levels are ignored.

    Returns:
      float32, shaped like x_t.

    Raises:
      ValueError: if there are too many frames, height or width cannot be halved often enough, or
        channels differ from the configuration.
    """
    self._check(x_t, condition)
    b, _, frames, _, _ = x_t.shape
    x = x_t if condition.visual is None else torch.cat([x_t, condition.visual], 1)
    kind = self.time_embedding.linear_1.weight.dtype
    time = self.time_embedding(self.time_proj(t.expand(b)).to(kind))
    time = with_scales(time, self.scales, condition.scales).to(self.dtype)
    time = time.repeat_interleave(frames, 0)
    levels = self._levels(x_t.shape, condition)
    h = self.conv_in(x.to(self.dtype).transpose(1, 2).flatten(0, 1))
    kept = [h]
    for number, (block, level) in enumerate(zip(self.down_blocks, levels, strict=True)):
      for unit, resnet in enumerate(block.resnets):
        h = self._unit(
          block, unit, resnet, h, time, level, frames, self._masked.get((number, unit))
        )
        kept.append(h)
      for resample in block.downsamplers or ():
        h = resample(h)
        kept.append(h)
    middle = self.mid_block
    h = middle.resnets[0](h, time)
    h = self._spatial(middle.attentions[0], h, levels[-1], frames)
    h = middle.resnets[1](h, time)
    for block, level in zip(self.up_blocks, reversed(levels), strict=True):
      for unit, resnet in enumerate(block.resnets):
        h = torch.cat([h, kept.pop()], 1)
        h = self._unit(block, unit, resnet, h, time, level, frames)
      for resample in block.upsamplers or ():
        h = resample(h)
    h = self.conv_out(self.conv_act(self.conv_norm_out(h)))
    return h.float().unflatten(0, (b, frames)).transpose(1, 2)

  def _unit(
    self,
    block: Any,
    unit: int,
    resnet: Any,
    h: Tensor,
    time: Tensor,
    level: Level,
    frames: int,
    masked: tuple[bool, bool] | None = None,
  ) -> Tensor:
    """Apply a residual block, a transformer if the level has one, and a motion module."""
    parts = [lambda h: resnet(h, time)]
    if hasattr(block, 'attentions'):
      transformer = block.attentions[unit]
      parts.append(lambda h: self._spatial(transformer, h, level, frames, masked))
    parts.append(lambda h: self._motion(block.motion_modules[unit], h, frames))
    for part in parts:
      if torch.is_grad_enabled() and block.gradient_checkpointing:
        h = block._gradient_checkpointing_func(part, h)
      else:
        h = part(h)
    return h

  def _spatial(
    self,
    transformer: Any,
    x: Tensor,
    level: Level,
    frames: int,
    masked: tuple[bool, bool] | None = None,
  ) -> Tensor:
    """Apply a residual transformer to the pixels of each frame of x [B T, d, H, W]."""
    h = transformer.proj_in(transformer.norm(x)).flatten(2).mT
    block = transformer.transformer_blocks[0]
    if masked is None:
      text, mask = level.text_of_frames
      h = h + block.attn1(block.norm1(h))
      h = h + block.attn2(block.norm2(h), encoder_hidden_states=text, attention_mask=mask)
      h = h + block.ff(block.norm3(h))
    else:
      h = self._masked_block(block, h, level, frames, *masked)
    return x + transformer.proj_out(h.mT.reshape(x.shape))

  def _masked_block(
    self,
    block: Any,
    h: Tensor,
    level: Level,
    frames: int,
    with_self: bool,
    with_cross: bool,
  ) -> Tensor:
    """Apply a transformer block with masked layers to h [B T, N, d].

    The order is self-attention, masked self-attention, cross-attention, masked cross-attention,
    feed-forward. Tokens are sorted by object from masked self-attention on, since the layers after
    it are permutation-equivariant.
    """
    shape, masks = h.shape, level.masks
    h = h + block.attn1(block.norm1(h))
    rows = shape[0] if self.config.masked_scope == 'spatial' else shape[0] // frames
    h = h.reshape(rows, -1, shape[-1])
    if masks is not None:
      h = sort(h, masks.order)
    if with_self:
      h = masked_self_attention(block.masked_attn, h, masks)
    h = h.reshape(shape[0] // frames, -1, shape[-1])
    text, mask = level.text, level.text_of_frames[1][::frames]
    h = h + block.attn2(block.norm2(h), encoder_hidden_states=text, attention_mask=mask)
    if with_cross:
      h = masked_cross_attention(block.masked_cross_attn, h, masks, level.text, level.read)
    h = h + block.ff(block.norm3(h))
    if masks is not None:
      h = unsort(h.reshape(rows, -1, shape[-1]), masks.order)
    return h.reshape(shape)

  def _motion(self, module: Any, x: Tensor, frames: int) -> Tensor:
    """Apply residual attention along time to each pixel of x [B T, d, H, W]."""
    b, (_, d, height, width) = len(x) // frames, x.shape
    if self.config.motion_norm == 'clip':
      return module(x, num_frames=frames)
    norm = module.norm
    h = group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    h = h.unflatten(0, (b, frames)).permute(0, 3, 4, 1, 2).reshape(-1, frames, d)
    h = module.proj_in(h)
    for block in module.transformer_blocks:
      h = block(h)
    h = module.proj_out(h).reshape(b, height, width, frames, d)
    return x + h.permute(0, 3, 4, 1, 2).reshape(x.shape)

  def _levels(self, shape: torch.Size, condition: Condition) -> list[Level]:
    """Return the inputs of the transformers of each level, with masks shared by all its layers."""
    b, _, frames, _, _ = shape
    text, text_bits = self._read(condition.text)
    everyone = torch.full((b, 1), EVERYONE, dtype=torch.int32, device=text.device)
    read = AttentionMask.make(everyone, text_bits)
    # An additive bias, which diffusers repeats for each head.
    bias = torch.where(text_bits != 0, 0.0, -torch.inf).to(self.dtype)[:, None]
    by_frame = text.repeat_interleave(frames, 0), bias.repeat_interleave(frames, 0)
    objects = condition.objects if self._masked else None
    prompts = None
    if objects is not None:
      prompts = self._read(objects.prompts, prompts=True)
    levels = []
    for number in range(len(self.down_blocks)):
      masks = None
      if objects is not None and prompts is not None and any(self._masked.get((number, 0), ())):
        masks = self._masks(objects.token_masks[number], *prompts)
      levels.append(Level(text, read, by_frame, masks))
    return levels

  def _read(self, text: Text, prompts: bool = False) -> tuple[Tensor, Tensor]:
    """Return embeddings [B, M, d], cast to the dtype of the network, and object sets int32."""
    embedding, bits = self.text(text, self.dtype, prompts)
    return embedding.to(self.dtype), bits

  def _masks(self, masks: TokenMasks, prompts: Tensor, bits: Tensor) -> ObjectMasks:
    b, frames = masks.region.shape[:2]
    rows = b * frames if self.config.masked_scope == 'spatial' else b
    region, present = (x.reshape(rows, -1) for x in masks)
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order).reshape(b, -1)
    own = AttentionMask.make(region, region, self.attention)
    return ObjectMasks(order, own, prompts, AttentionMask.make(present, bits, self.attention))

  def _check(self, x_t: Tensor, condition: Condition) -> None:
    config = self.config
    _, channels, frames, height, width = x_t.shape
    halvings = len(config.block_out_channels) - 1
    if frames > config.motion_max_seq_length:
      raise ValueError(f'{frames} latent frames exceed the {config.motion_max_seq_length} it knows')
    if height % 2**halvings or width % 2**halvings:
      raise ValueError(f'latents of {height} x {width} cannot be halved {halvings} times')
    got = 0 if condition.visual is None else condition.visual.shape[1]
    visual = config.in_channels - config.out_channels
    if channels != config.out_channels or got != visual:
      raise ValueError(
        f'the model takes {config.out_channels} channels of noisy latents and {visual} of visual'
        f' condition, got {channels} and {got}'
      )


def _extra(
  norm: nn.LayerNorm, sibling: Any, d: int, heads: int, d_context: int | None
) -> MaskedLayer:
  """Return a masked layer initialized from a norm and an attention, behind a gate of 0."""
  attention = Attention(d, heads, qk_norm=None, d_context=d_context, out_bias=True)
  pairs = (
    (attention.query, sibling.to_q),
    (attention.key, sibling.to_k),
    (attention.value, sibling.to_v),
    (attention.out, sibling.to_out[0]),
  )
  for own, other in pairs:
    own.load_state_dict(other.state_dict())
  made = MaskedLayer(nn.LayerNorm(d), attention)
  made.norm.load_state_dict(norm.state_dict())
  return made
