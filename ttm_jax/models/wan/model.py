"""The transformer of Wan 2.1 and 2.2 (Wan Team 2025, arXiv 2503.20314) with masked layers.

The layout is that of `WanTransformer3DModel` in diffusers, so that open text-to-video weights can
be loaded. A block has self-attention with rotary positions, cross-attention to the text, and a
feed-forward network; the diffusion time modulates the first and the last. The first `masked_blocks`
blocks have the two extra layers of Through-The-Mask (paper, section 3.3). Layers are scanned: first
the masked blocks, then the rest.
"""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ttm_jax.conditioning import Condition
from ttm_jax.models.patches import from_patches, patches
from ttm_jax.models.transformer_config import TransformerConfig
from ttm_jax.models.wan.text import TextEmbedder
from ttm_jax.nn.attention import Attention
from ttm_jax.nn.feed_forward import MLP
from ttm_jax.nn.linear import Linear, normal_init, zeros_init
from ttm_jax.nn.masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from ttm_jax.nn.modulation import gated_residual
from ttm_jax.nn.norms import LayerNorm
from ttm_jax.nn.rope import Rotation, grid_rotation
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.nn.time_embedding import TimeEmbedding
from ttm_jax.ops.object_attention import sort, unsort
from ttm_jax.text.encoders import TextEncoderSpec

Array = jax.Array

PATCH = (2, 2)  # Latents per token along (height, width), in all published sizes.
EPS = 1e-6  # Of all norms.
MOST_POSITIONS = 1024  # Tokens along one axis of a video.


@dataclasses.dataclass(frozen=True)
class WanConfig(TransformerConfig):
  """Sizes of the transformer; the defaults are Wan 2.1 T2V 1.3B."""

  width: int = 1536
  layers: int = 30
  heads: int = 12
  ffn: int = 8960

  def __post_init__(self):
    super().__post_init__()
    if self.head_dim % 2:
      raise ValueError(
        f'width {self.width} must be an even multiple of the number of heads, {self.heads}'
      )

  @property
  def rotated(self) -> tuple[int, int, int]:
    """Channels of a head that are rotated by the position along time, height and width."""
    side = 2 * (self.head_dim // 6)
    return self.head_dim - 2 * side, side, side


@flax.struct.dataclass
class BlockInputs:
  """The inputs of every block besides its tokens.

  Attributes:
    rotation: rotary position embedding of the tokens.
    modulation: float32 [B, F, 6, d], projection of the time embedding. F is 1, or T' if the frames
      have different times.
    frame: int32 [B, N], the latent frame of each token.
    text: [B, M, d], the embedded caption. Tokens attend to its padding too, as in training of Wan.
    objects: masks and prompts of the masked layers; if None, these layers are dense attention.
  """

  rotation: Rotation
  modulation: Array
  frame: Array
  text: Array
  objects: ObjectMasks | None


class Block(nnx.Module):
  """Self-attention, cross-attention and feed-forward; `MaskedBlock` adds the two masked layers.

  All blocks share one projection of the time embedding; each adds a learned table. The six rows are
  shift, scale and gate of the self-attention, then of the feed-forward. Cross-attention has a norm
  with its own scale and bias, and no gate.
  """

  masked_attn: MaskedLayer | None = None
  masked_cross_attn: MaskedLayer | None = None

  def __init__(self, config: WanConfig, rngs: nnx.Rngs):
    d, dtype = config.width, jnp.dtype(config.dtype)
    # Gates start at 1, because with gates of 0 the loss decreases only after many steps.
    open_gates = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    self.table = nnx.Param(normal_init(rngs.params(), (6, d), jnp.float32) + open_gates)

    def attention() -> Attention:
      return Attention(
        d,
        config.heads,
        rngs=rngs,
        dtype=dtype,
        qk_norm='width',
        qkv_bias=True,
        out_bias=True,
        eps=EPS,
      )

    self.norm1, self.attn = LayerNorm(d, EPS, affine=False), attention()
    self.norm2, self.cross_attn = LayerNorm(d, EPS), attention()
    self.norm3 = LayerNorm(d, EPS, affine=False)
    self.ffn = MLP(d, config.ffn, d, rngs=rngs, dtype=dtype)

  def __call__(self, h: Array, inputs: BlockInputs) -> Array:
    """Map h [B, N, d] to [B, N, d]."""
    modulation = jnp.moveaxis(inputs.modulation + self.table[...], 2, 0)
    shift1, scale1, gate1, shift3, scale3, gate3 = (
      of_tokens(rows, inputs.frame) for rows in modulation
    )
    attended = self.attn(self.norm1.modulated(h, shift1, scale1), rotation=inputs.rotation)
    h = gated_residual(h, attended, gate1)
    if self.masked_attn is not None:
      h = masked_self_attention(self.masked_attn, h, inputs.objects, inputs.rotation)
    h = h + self.cross_attn(self.norm2(h), inputs.text).astype(h.dtype)
    if self.masked_cross_attn is not None:
      h = masked_cross_attention(self.masked_cross_attn, h, inputs.objects, inputs.text, None)
    return gated_residual(h, self.ffn(self.norm3.modulated(h, shift3, scale3)), gate3)


class MaskedBlock(Block):
  """A block with masked self-attention and masked cross-attention (paper, section 3.3).

  Each masked layer is initialized as a copy of the corresponding unmasked attention that adds
  nothing yet.
  """

  def __init__(self, config: WanConfig, rngs: nnx.Rngs):
    super().__init__(config, rngs)
    if config.masked_self:
      self.masked_attn = MaskedLayer(LayerNorm(config.width, EPS), self.attn, config.masked_init)
    if config.masked_cross:
      self.masked_cross_attn = MaskedLayer(
        LayerNorm(config.width, EPS), self.cross_attn, config.masked_init
      )


class Wan(nnx.Module):
  """The denoiser: (x_t, t, condition) -> prediction."""

  def __init__(self, config: WanConfig, encoders: Mapping[str, TextEncoderSpec], *, rngs: nnx.Rngs):
    d, dtype, area = config.width, jnp.dtype(config.dtype), PATCH[0] * PATCH[1]
    self.config = config
    self.embed = Linear(area * config.channels, d, rngs=rngs, dtype=dtype, bias=True)
    self.embed_visual = (
      Linear(area * config.visual_channels, d, rngs=rngs, dtype=dtype, init=zeros_init)
      if config.visual_channels
      else None
    )
    self.text = TextEmbedder(encoders, d, rngs=rngs, dtype=dtype)
    self.time = TimeEmbedding(d, rngs=rngs, scales=config.guidance_inputs)
    self.modulation = Linear(d, 6 * d, rngs=rngs, bias=True, init=zeros_init)
    self.masked_blocks = stack(MaskedBlock, config.masked_blocks, config, rngs)
    self.blocks = stack(Block, config.layers - config.masked_blocks, config, rngs)
    self.norm = LayerNorm(d, EPS, affine=False)
    self.table = nnx.Param(normal_init(rngs.params(), (2, d), jnp.float32))
    self.head = Linear(d, area * config.channels, rngs=rngs, bias=True, init=zeros_init)

  def __call__(self, x_t: Array, t: Array, condition: Condition) -> Array:
    """Predict at one diffusion time.

    Args:
      x_t: noisy latents, float32 [B, T', H', W', C].
      t: diffusion time, float32: [B], or [B, T'] with a time for each latent frame. 1000 at noise,
        0 at data.
      condition: see `Condition`. `visual` must be given iff the model has visual channels. If
        objects are given, `token_masks` has one entry.

    Returns:
      float32, the shape of x_t.

    Raises:
      ValueError: if shapes do not match the configuration.
    """
    self._check(x_t, t, condition)
    b, frames, height, width, _ = x_t.shape
    grid = (frames, height // PATCH[0], width // PATCH[1])
    h = self.embed(patches(x_t, PATCH))
    if self.embed_visual is not None and condition.visual is not None:
      h = h + self.embed_visual(patches(condition.visual, PATCH))
    text, _ = self.text(condition.text)
    time = self.time(t.reshape(b, -1), condition.scales)
    objects, rotation = self._object_masks(condition), grid_rotation(grid, self.config.rotated)
    frame = jnp.repeat(jnp.arange(frames, dtype=jnp.int32), grid[1] * grid[2])
    frame = jnp.broadcast_to(frame, h.shape[:2])
    if objects is not None:
      h, frame_sorted = sort(h, objects.order), sort(frame, objects.order)
      rotation = rotation.sorted(objects.order)
    inputs = BlockInputs(
      rotation=rotation,
      modulation=rearrange(self.modulation(jax.nn.silu(time)), 'b f (six d) -> b f six d', six=6),
      frame=frame if objects is None else frame_sorted,
      text=text,
      objects=objects,
    )
    h = scan_blocks(self.masked_blocks, h, inputs, self.config.remat, self.config.unroll)
    h = scan_blocks(self.blocks, h, inputs, self.config.remat, self.config.unroll)
    if objects is not None:
      h = unsort(h, objects.order)
    shift, scale = (of_tokens(row + time, frame) for row in self.table[...])
    out = self.head(self.norm.modulated(h, shift, scale)).astype(jnp.float32)
    return from_patches(out, (frames, height, width), PATCH)

  def _object_masks(self, condition: Condition) -> ObjectMasks | None:
    """Return the inputs of the masked layers, in sorted token order, or None without objects."""
    if condition.objects is None or not self.config.masked_blocks:
      return None
    (masks,) = condition.objects.token_masks
    prompts, bits = self.text(condition.objects.prompts, prompts=True)
    return ObjectMasks.make(masks, prompts, bits, self.config.head_dim, self.config.dtype)

  def _check(self, x_t: Array, t: Array, condition: Condition) -> None:
    config, (b, frames, height, width, channels) = self.config, x_t.shape
    grid = (frames, height // PATCH[0], width // PATCH[1])
    if max(grid) > MOST_POSITIONS or height % PATCH[0] or width % PATCH[1]:
      raise ValueError(
        f'latents of {x_t.shape[1:4]} must divide into tokens of 1 x 2 x 2, at most'
        f' {MOST_POSITIONS} along an axis'
      )
    if t.shape not in ((b,), (b, frames)):
      raise ValueError(f't must be [{b}] or [{b}, {frames}], got {t.shape}')
    got = 0 if condition.visual is None else condition.visual.shape[-1]
    if channels != config.channels or got != config.visual_channels:
      raise ValueError(
        f'the model takes {config.channels} channels of noisy latents and {config.visual_channels}'
        f' of visual condition, got {channels} and {got}'
      )


def of_tokens(rows: Array, frame: Array) -> Array:
  """Return the row of each token.

  Args:
    rows: [B, F, d]; F is 1 if all frames share one row, else the number of latent frames.
    frame: int32 [B, N], the latent frame of each token.

  Returns:
    [B, 1, d] if F is 1, else [B, N, d].
  """
  return rows if rows.shape[1] == 1 else jnp.take_along_axis(rows, frame[..., None], axis=1)
