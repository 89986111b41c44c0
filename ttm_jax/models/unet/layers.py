"""The layers of the U-Net of Stable Diffusion 1.5: residual block and spatial transformer.

Activations are [B, T, H, W, C]. Each frame is processed independently, except in the two masked
layers. Parameters are float32. Convolutions and matrix products run in the compute dtype, norms in
float32. Initialization from scratch follows the original code (CompVis/latent-diffusion): the last
layer of each residual branch is zero.
"""

import dataclasses

import flax.struct
import jax
from flax import nnx

from ttm_jax.nn.attention import Attention, AttentionMask
from ttm_jax.nn.convolution import Conv
from ttm_jax.nn.feed_forward import GEGLU
from ttm_jax.nn.linear import Linear, uniform_init, zeros_init
from ttm_jax.nn.masked_attention import (
  MaskedLayer,
  ObjectMasks,
  masked_cross_attention,
  masked_self_attention,
)
from ttm_jax.nn.norms import GroupNorm, LayerNorm
from ttm_jax.ops.object_attention import sort, unsort

Array = jax.Array


class ResBlock(nnx.Module):
  """Two normalized convolutions with the time embedding added in between, and a shortcut."""

  def __init__(self, d_in: int, d_out: int, d_time: int, groups: int, *, rngs: nnx.Rngs, dtype):
    self.norm1 = GroupNorm(d_in, groups, eps=1e-5)
    self.conv1 = Conv(d_in, d_out, rngs=rngs, dtype=dtype)
    self.time = Linear(d_time, d_out, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.norm2 = GroupNorm(d_out, groups, eps=1e-5)
    self.conv2 = Conv(d_out, d_out, rngs=rngs, dtype=dtype, init=zeros_init)
    self.shortcut = (
      None
      if d_in == d_out
      else Linear(d_in, d_out, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    )

  def __call__(self, x: Array, time: Array) -> Array:
    """Map x [B, T, H, W, d_in] and time [B, d_time] to [B, T, H, W, d_out]."""
    y = self.conv1(jax.nn.silu(self.norm1(x)))
    y = y + self.time(time)[:, None, None, None]
    y = self.conv2(jax.nn.silu(self.norm2(y)))
    return y + (x if self.shortcut is None else self.shortcut(x))


@flax.struct.dataclass
class LevelInputs:
  """The inputs of the transformers at one resolution besides their tokens.

  Attributes:
    text: [B, M, d], the projected caption.
    text_mask: which of the T H W tokens may attend to which text tokens.
    objects: masks and prompts of the masked layers; if None, these layers are dense attention.
      `order` and `self_mask` have one row per clip, [B, T H W]. If masked self-attention stays
      within frames, they have one row per frame, [B T, H W].
  """

  text: Array
  text_mask: AttentionMask
  objects: ObjectMasks | None


@dataclasses.dataclass(frozen=True)
class MaskedParts:
  """Which masked layers a transformer block has.

  Attributes:
    self_attention, cross_attention: whether it has each of the two layers.
    within_frames: whether masked self-attention stays within single frames.
    init: how the layers are initialized, see `MaskedLayer`.
  """

  self_attention: bool = False
  cross_attention: bool = False
  within_frames: bool = False
  init: str = 'gate'


PLAIN = MaskedParts()


class TransformerBlock(nnx.Module):
  """Self-attention within each frame, cross-attention to the text, feed-forward.

  In a masked block, masked self-attention follows the self-attention, and masked cross-attention
  follows the cross-attention. From masked self-attention on, the tokens are sorted by object; this
  is correct since the layers that follow are permutation-equivariant.
  """

  def __init__(
    self, d: int, heads: int, d_text: int, masked: MaskedParts, *, rngs: nnx.Rngs, dtype
  ):
    def attention(d_context: int | None = None) -> Attention:
      return Attention(
        d,
        heads,
        rngs=rngs,
        dtype=dtype,
        qk_norm=None,
        d_context=d_context,
        out_bias=True,
        init=uniform_init,
      )

    self.norm1, self.attn = LayerNorm(d), attention()
    self.norm2, self.cross_attn = LayerNorm(d), attention(d_text)
    self.norm3, self.ffn = LayerNorm(d), GEGLU(d, rngs=rngs, dtype=dtype)
    self.within_frames = masked.within_frames

    def masked_layer(sibling: Attention) -> MaskedLayer:
      return MaskedLayer(LayerNorm(d), sibling, masked.init)

    self.masked_attn = masked_layer(self.attn) if masked.self_attention else None
    self.masked_cross_attn = masked_layer(self.cross_attn) if masked.cross_attention else None

  def __call__(self, h: Array, inputs: LevelInputs) -> Array:
    """Map h [B, T, N, d] to [B, T, N, d], where N = H W."""
    shape = h.shape
    b, t, _, d = shape
    h = h.reshape(b * t, -1, d)
    h = h + self.attn(self.norm1(h))

    is_masked = self.masked_attn is not None or self.masked_cross_attn is not None
    objects = inputs.objects if is_masked else None
    rows = b * t if self.within_frames else b
    h = h.reshape(rows, -1, d)
    if objects is not None:
      h = sort(h, objects.order)
    if self.masked_attn is not None:
      h = masked_self_attention(self.masked_attn, h, objects)
    h = h.reshape(b, -1, d)
    h = h + self.cross_attn(self.norm2(h), inputs.text, inputs.text_mask)
    if self.masked_cross_attn is not None:
      h = masked_cross_attention(self.masked_cross_attn, h, objects, inputs.text, inputs.text_mask)
    h = h + self.ffn(self.norm3(h))
    if objects is not None:
      h = unsort(h.reshape(rows, -1, d), objects.order)
    return h.reshape(shape)


class SpatialTransformer(nnx.Module):
  """A transformer block over the pixels of each frame, as a residual."""

  def __init__(
    self,
    d: int,
    heads: int,
    d_text: int,
    groups: int,
    masked: MaskedParts,
    *,
    rngs: nnx.Rngs,
    dtype,
  ):
    self.norm = GroupNorm(d, groups, eps=1e-6)
    self.proj_in = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=uniform_init)
    self.block = TransformerBlock(d, heads, d_text, masked, rngs=rngs, dtype=dtype)
    self.proj_out = Linear(d, d, rngs=rngs, dtype=dtype, bias=True, init=zeros_init)

  def __call__(self, x: Array, inputs: LevelInputs) -> Array:
    """Map x [B, T, H, W, d] to [B, T, H, W, d]."""
    b, t, _, _, d = x.shape
    h = self.proj_in(self.norm(x)).reshape(b, t, -1, d)
    return x + self.proj_out(self.block(h, inputs)).reshape(x.shape)
