"""The Movie Gen-style diffusion transformer (paper, section 10; Movie Gen, section 3.1.3).

A block is a Llama 3 block (RMSNorm, SwiGLU, no biases, full attention) with cross-attention to the
text and adaptive modulation by the diffusion time. The first `masked_blocks` blocks have the two
extra layers of Through-The-Mask. Layers are scanned: first the masked blocks, then the rest.
"""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ttm_jax.conditioning import EVERYONE, Condition
from ttm_jax.models.patches import from_patches, patches
from ttm_jax.models.transformer_config import TransformerConfig
from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.feed_forward import SwiGLU
from ttm_jax.nn.linear import Linear, normal_init, zeros_init
from ttm_jax.nn.masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from ttm_jax.nn.modulation import gated_residual
from ttm_jax.nn.norms import RMSNorm
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.nn.time_embedding import TimeEmbedding
from ttm_jax.ops.object_attention import sort, unsort
from ttm_jax.text.encoders import TextEncoderSpec, TextProjector

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DiTConfig(TransformerConfig):
  """Sizes of the transformer; the defaults are the 4B model.

  Attributes:
    grid: the largest latent video (T', H', W') that the position tables cover.
    patch: latents per token along (height, width).
    qk_norm: whether queries and keys have an RMSNorm.
  """

  width: int = 2560
  layers: int = 40
  heads: int = 20
  ffn: int = 6144
  grid: tuple[int, int, int] = (16, 32, 32)
  patch: tuple[int, int] = (2, 2)
  qk_norm: bool = True

  @property
  def token_grid(self) -> tuple[int, int, int]:
    """The largest grid of tokens (t, h, w)."""
    t, h, w = self.grid
    return t, h // self.patch[0], w // self.patch[1]


@flax.struct.dataclass
class BlockInputs:
  """The inputs of every block besides its tokens.

  Attributes:
    positions: float32 [N, d] or [B, N, d], position embedding added to the input of every block.
    modulation: float32 [B, 6, d], projection of the time embedding.
    text: [B, M, d], the projected caption.
    text_mask: which of the N tokens may attend to which of the M text tokens.
    objects: masks and prompts of the masked layers; if None, these layers are dense attention.
  """

  positions: Array
  modulation: Array
  text: Array
  text_mask: AttentionMask
  objects: ObjectMasks | None


class Block(nnx.Module):
  """Self-attention, cross-attention and feed-forward; `MaskedBlock` adds the two masked layers.

  Modulation follows PixArt: one projection of the time embedding, shared by all blocks, plus a
  learned table per block. The six rows are shift, scale and gate of the self-attention, then of the
  feed-forward. Cross-attention is normalized but not modulated.
  """

  masked_attn: MaskedLayer | None = None
  masked_cross_attn: MaskedLayer | None = None

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    d, dtype = config.width, jnp.dtype(config.dtype)
    # Gates start at 1, because with gates of 0 the loss decreases only after many steps.
    open_gates = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    self.table = nnx.Param(normal_init(rngs.params(), (6, d), jnp.float32) + open_gates)

    def attention() -> Attention:
      return Attention(
        d, config.heads, rngs=rngs, dtype=dtype, qk_norm='head' if config.qk_norm else None
      )

    self.norm1, self.attn = RMSNorm(d), attention()
    self.norm2, self.cross_attn = RMSNorm(d), attention()
    self.norm3, self.ffn = RMSNorm(d), SwiGLU(d, config.ffn, rngs=rngs, dtype=dtype)

  def __call__(self, h: Array, inputs: BlockInputs) -> Array:
    """Map h [B, N, d] to [B, N, d]."""
    modulation = jnp.moveaxis(inputs.modulation + self.table[...], 1, 0)[:, :, None]
    shift1, scale1, gate1, shift3, scale3, gate3 = modulation

    h = h + inputs.positions.astype(h.dtype)
    h = gated_residual(h, self.attn(self.norm1.modulated(h, shift1, scale1)), gate1)
    if self.masked_attn is not None:
      h = masked_self_attention(self.masked_attn, h, inputs.objects)
    h = h + self.cross_attn(self.norm2(h), inputs.text, inputs.text_mask).astype(h.dtype)
    if self.masked_cross_attn is not None:
      h = masked_cross_attention(
        self.masked_cross_attn, h, inputs.objects, inputs.text, inputs.text_mask
      )
    return gated_residual(h, self.ffn(self.norm3.modulated(h, shift3, scale3)), gate3)


class MaskedBlock(Block):
  """A block with masked self-attention and masked cross-attention (paper, section 3.3).

  Each masked layer is initialized as a copy of the corresponding unmasked attention that adds
  nothing yet.
  """

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    super().__init__(config, rngs)
    if config.masked_self:
      self.masked_attn = MaskedLayer(RMSNorm(config.width), self.attn, config.masked_init)
    if config.masked_cross:
      self.masked_cross_attn = MaskedLayer(
        RMSNorm(config.width), self.cross_attn, config.masked_init
      )


class DiT(nnx.Module):
  """The denoiser: (x_t, t, condition) -> prediction."""

  def __init__(self, config: DiTConfig, encoders: Mapping[str, TextEncoderSpec], *, rngs: nnx.Rngs):
    d, dtype, area = config.width, jnp.dtype(config.dtype), config.patch[0] * config.patch[1]
    self.config = config
    self.embed = Linear(area * config.channels, d, rngs=rngs, dtype=dtype)
    self.embed_visual = (
      Linear(area * config.visual_channels, d, rngs=rngs, dtype=dtype, init=zeros_init)
      if config.visual_channels
      else None
    )
    self.positions = nnx.Dict(
      {
        axis: nnx.Param(normal_init(rngs.params(), (size, d), jnp.float32))
        for axis, size in zip('thw', config.token_grid, strict=True)
      }
    )
    self.text = TextProjector(encoders, d, rngs=rngs, dtype=dtype)
    self.time = TimeEmbedding(d, rngs=rngs, scales=config.guidance_inputs)
    self.modulation = Linear(d, 6 * d, rngs=rngs, bias=True, init=zeros_init)
    self.masked_blocks = stack(MaskedBlock, config.masked_blocks, config, rngs)
    self.blocks = stack(Block, config.layers - config.masked_blocks, config, rngs)
    self.norm = RMSNorm(d)
    self.final_modulation = Linear(d, 2 * d, rngs=rngs, bias=True, init=zeros_init)
    self.head = Linear(d, area * config.channels, rngs=rngs, bias=True, init=zeros_init)

  def __call__(self, x_t: Array, t: Array, condition: Condition) -> Array:
    """Predict at one diffusion time.

    Args:
      x_t: noisy latents, float32 [B, T', H', W', C].
      t: diffusion time, float32 [B]: 1000 at noise, 0 at data.
      condition: see `Condition`. `visual` must be given iff the model has visual channels. If
        objects are given, `token_masks` has one entry.

    Returns:
      float32, the shape of x_t.

    Raises:
      ValueError: if shapes do not match the configuration.
    """
    self._check(x_t, condition)
    _, frames, height, width, _ = x_t.shape
    grid = (frames, height // self.config.patch[0], width // self.config.patch[1])
    h = self.embed(patches(x_t, self.config.patch))
    if self.embed_visual is not None and condition.visual is not None:
      h = h + self.embed_visual(patches(condition.visual, self.config.patch))
    text, text_bits = self.text(condition.text)
    time = jax.nn.silu(self.time(t, condition.scales))
    objects, positions = self._object_masks(condition), self._positions(grid)
    if objects is not None:
      h = sort(h, objects.order)
      positions = sort(jnp.broadcast_to(positions, h.shape), objects.order)
    inputs = BlockInputs(
      positions=positions,
      modulation=rearrange(self.modulation(time), 'b (six d) -> b six d', six=6),
      text=text,
      text_mask=self._mask(jnp.full(h.shape[:2], EVERYONE, jnp.int32), text_bits),
      objects=objects,
    )
    h = scan_blocks(self.masked_blocks, h, inputs, self.config.remat, self.config.unroll)
    h = scan_blocks(self.blocks, h, inputs, self.config.remat, self.config.unroll)
    if objects is not None:
      h = unsort(h, objects.order)
    shift, scale = jnp.split(self.final_modulation(time)[:, None], 2, -1)
    out = self.head(self.norm.modulated(h, shift, scale)).astype(jnp.float32)
    return from_patches(out, (frames, height, width), self.config.patch)

  def _positions(self, grid: tuple[int, int, int]) -> Array:
    """Return the position embedding of a token grid, float32 [N, d]."""
    t, h, w = (self.positions[axis][...][:size] for axis, size in zip('thw', grid, strict=True))
    summed = t[:, None, None] + h[:, None] + w
    return summed.reshape(-1, summed.shape[-1])

  def _object_masks(self, condition: Condition) -> ObjectMasks | None:
    """Return the inputs of the masked layers, in sorted token order, or None without objects."""
    if condition.objects is None or not self.config.masked_blocks:
      return None
    (masks,) = condition.objects.token_masks
    prompts, bits = self.text(condition.objects.prompts, prompts=True)
    config = self.config
    return ObjectMasks.make(masks, prompts, bits, config.head_dim, config.dtype)

  def _mask(self, q_bits: Array, k_bits: Array) -> AttentionMask:
    config = self.config
    return AttentionMask.make(q_bits, k_bits, config.head_dim, config.dtype)

  def _check(self, x_t: Array, condition: Condition) -> None:
    config = self.config
    if any(size > most for size, most in zip(x_t.shape[1:4], config.grid, strict=True)):
      raise ValueError(f'latents of {x_t.shape[1:4]} exceed the grid {config.grid}')
    got = 0 if condition.visual is None else condition.visual.shape[-1]
    if x_t.shape[-1] != config.channels or got != config.visual_channels:
      raise ValueError(
        f'the model takes {config.channels} channels of noisy latents and {config.visual_channels}'
        f' of visual condition, got {x_t.shape[-1]} and {got}'
      )
