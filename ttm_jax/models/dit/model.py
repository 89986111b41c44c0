"""The Movie Gen-style diffusion transformer (paper, section 10; Movie Gen, section 3.1.3).

A LLaMa-3 block (RMSNorm, SwiGLU, no biases, full attention) with cross-attention to the text and
adaptive modulation by the time. Its first `masked_blocks` blocks carry the two extra layers of
Through-The-Mask. Layers are scanned: first the masked blocks, then the rest.
"""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from ttm_jax.conditioning import EVERYONE, Condition
from ttm_jax.nn.layers import (
  Attention,
  AttentionMask,
  Linear,
  RMSNorm,
  SwiGLU,
  TimeEmbedding,
  normal_init,
  zeros_init,
)
from ttm_jax.nn.masked_attention import GatedResidual, Masks, masked_cross, masked_self
from ttm_jax.nn.modulation import modulated
from ttm_jax.nn.scan import scan_blocks, stack
from ttm_jax.ops import rematerialization
from ttm_jax.ops.object_attention import sort, sort_by_object, unsort
from ttm_jax.text.encoders import Encoder, TextProjector

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DiTConfig:
  """Sizes of the transformer; the defaults are the 4B model.

  Attributes:
    width, layers, heads, ffn: d, L, heads and hidden width of the feed-forward.
    masked_blocks: K, how many of the first blocks carry the extra layers.
    masked_self, masked_cross: whether these blocks have each of the two (ablations).
    channels: C of the latents that are generated.
    visual_channels: channels of the visual condition; their input weights start at zero.
    grid: the largest latent video (T', H', W') that the position tables can place.
    patch: latents a token covers along (height, width).
    qk_norm: RMSNorm on queries and keys.
    dtype: compute dtype, 'bfloat16' or 'float32'.
    remat: what the backward pass recomputes of each block: 'none', 'dots' (all but matrix products
      and attention), 'full', or 'offload' (all, and what enters the blocks waits in the host's
      memory).
    unroll: blocks one trip of the layer loop holds; CPUs like all, accelerators compile 1 fastest.
  """

  width: int = 2560
  layers: int = 40
  heads: int = 20
  ffn: int = 6144
  masked_blocks: int = 0
  masked_self: bool = True
  masked_cross: bool = True
  channels: int = 16
  visual_channels: int = 0
  grid: tuple[int, int, int] = (16, 32, 32)
  patch: tuple[int, int] = (2, 2)
  qk_norm: bool = True
  dtype: str = 'bfloat16'
  remat: str = 'full'
  unroll: int = 1

  def __post_init__(self):
    rematerialization.check(self.remat)
    if self.width % self.heads:
      raise ValueError(f'width {self.width} must be a multiple of heads {self.heads}')
    if not 0 <= self.masked_blocks <= self.layers:
      raise ValueError(f'masked_blocks must be 0 to {self.layers}, got {self.masked_blocks}')

  @property
  def token_grid(self) -> tuple[int, int, int]:
    """The largest grid of tokens (t, h, w)."""
    t, h, w = self.grid
    return t, h // self.patch[0], w // self.patch[1]


@flax.struct.dataclass
class Context:
  """What every block is given besides its tokens.

  Attributes:
    positions: float32 [N, d] or [B, N, d], added to the input of every block.
    modulation: float32 [B, 6, d], from the time.
    text: [B, M, d]; read: which token may read which of it.
    masks: for the masked blocks; None makes their extra layers plain ones.
  """

  positions: Array
  modulation: Array
  text: Array
  read: AttentionMask
  masks: Masks | None


class Block(nnx.Module):
  """Self-attention, cross-attention, feed-forward.

  Modulation is PixArt's: one projection of the time for all blocks plus a learnt table of each, in
  the order shift, scale, gate of the self-attention, then of the feed-forward. Cross-attention is
  normalised but not modulated.
  """

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    d, dtype = config.width, jnp.dtype(config.dtype)
    # Gates start open: with all of them closed a network takes long to begin to learn.
    open_gates = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    self.table = nnx.Param(normal_init(rngs.params(), (6, d), jnp.float32) + open_gates)
    self.self_norm = RMSNorm(d)
    self.self_attention = Attention(d, config.heads, rngs=rngs, dtype=dtype, qk_norm=config.qk_norm)
    self.cross_norm = RMSNorm(d)
    self.cross_attention = Attention(
      d, config.heads, rngs=rngs, dtype=dtype, qk_norm=config.qk_norm
    )
    self.ffn_norm = RMSNorm(d)
    self.ffn = SwiGLU(d, config.ffn, rngs=rngs, dtype=dtype)

  def enter(self, h: Array, context: Context) -> Array:
    """Positions and self-attention."""
    shift, scale, gate = self._modulation(context)[:3]
    h = h + context.positions.astype(h.dtype)
    return modulated(h, self.self_attention(self.self_norm.modulated(h, shift, scale)), gate)

  def read(self, h: Array, context: Context) -> Array:
    """Cross-attention to the text."""
    y = self.cross_attention(self.cross_norm(h), context.text, context.read)
    return h + y.astype(h.dtype)

  def leave(self, h: Array, context: Context) -> Array:
    """Feed-forward."""
    shift, scale, gate = self._modulation(context)[3:]
    return modulated(h, self.ffn(self.ffn_norm.modulated(h, shift, scale)), gate)

  def __call__(self, h: Array, context: Context) -> Array:
    return self.leave(self.read(self.enter(h, context), context), context)

  def _modulation(self, context: Context) -> list[Array]:
    return list(jnp.moveaxis(context.modulation + self.table[...], 1, 0)[:, :, None])


class MaskedBlock(nnx.Module):
  """A block with the two extra layers: self, masked self, cross, masked cross, feed-forward.

  The extra attentions start as copies of their siblings, behind closed gates.
  """

  def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
    self.base = Block(config, rngs)

    def extra(sibling: Attention) -> GatedResidual:
      return GatedResidual(RMSNorm(config.width), nnx.clone(sibling))

    self.masked_self = extra(self.base.self_attention) if config.masked_self else None
    self.masked_cross = extra(self.base.cross_attention) if config.masked_cross else None

  def __call__(self, h: Array, context: Context) -> Array:
    h = self.base.enter(h, context)
    if self.masked_self is not None:
      h = masked_self(self.masked_self, h, context.masks)
    h = self.base.read(h, context)
    if self.masked_cross is not None:
      h = masked_cross(self.masked_cross, h, context.masks, context.text, context.read)
    return self.base.leave(h, context)


class DiT(nnx.Module):
  """The denoiser: (x_t, t, condition) -> prediction."""

  def __init__(self, config: DiTConfig, encoders: Mapping[str, Encoder], *, rngs: nnx.Rngs):
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
    self.time = TimeEmbedding(d, rngs=rngs)
    self.modulation = Linear(d, 6 * d, rngs=rngs, bias=True, init=zeros_init)
    self.masked_blocks = stack(MaskedBlock, config.masked_blocks, config, rngs)
    self.blocks = stack(Block, config.layers - config.masked_blocks, config, rngs)
    self.norm = RMSNorm(d)
    self.final_modulation = Linear(d, 2 * d, rngs=rngs, bias=True, init=zeros_init)
    self.head = Linear(d, area * config.channels, rngs=rngs, bias=True, init=zeros_init)

  def __call__(self, x_t: Array, t: Array, condition: Condition) -> Array:
    """Predicts at one time.

    Args:
      x_t: noisy latents, float32 [B, T', H', W', C].
      t: time as the network takes it, float32 [B]: 1000 at noise, 0 at data.
      condition: see `Condition`; `visual` must be there iff the model has visual channels, with
        one entry of `places` where objects are given.

    Returns:
      float32, like x_t.

    Raises:
      ValueError: where shapes do not fit the configuration.
    """
    self._check(x_t, condition)
    _, frames, height, width, _ = x_t.shape
    grid = (frames, height // self.config.patch[0], width // self.config.patch[1])
    h = self.embed(self._patches(x_t))
    if self.embed_visual is not None and condition.visual is not None:
      h = h + self.embed_visual(self._patches(condition.visual))
    text, text_bits = self.text(condition.text)
    time = jax.nn.silu(self.time(t))
    masks, positions = self._masks(condition), self._positions(grid)
    if masks is not None:
      h = sort(h, masks.order)
      positions = sort(jnp.broadcast_to(positions, h.shape), masks.order)
    context = Context(
      positions=positions,
      modulation=rearrange(self.modulation(time), 'b (six d) -> b six d', six=6),
      text=text,
      read=self._pairs(jnp.full(h.shape[:2], EVERYONE, jnp.int32), text_bits),
      masks=masks,
    )
    kept = self.config.remat, self.config.unroll
    h = scan_blocks(self.masked_blocks, h, context, *kept)
    h = scan_blocks(self.blocks, h, context, *kept)
    if masks is not None:
      h = unsort(h, masks.order)
    shift, scale = jnp.split(self.final_modulation(time)[:, None], 2, -1)
    out = self.head(self.norm.modulated(h, shift, scale)).astype(jnp.float32)
    (p, q), (_, rows, columns) = self.config.patch, grid
    return rearrange(
      out, 'b (t h w) (p q c) -> b t (h p) (w q) c', t=frames, h=rows, w=columns, p=p, q=q
    )

  def _patches(self, x: Array) -> Array:
    p, q = self.config.patch
    return rearrange(x, 'b t (h p) (w q) c -> b (t h w) (p q c)', p=p, q=q)

  def _positions(self, grid: tuple[int, int, int]) -> Array:
    t, h, w = (self.positions[axis][...][:size] for axis, size in zip('thw', grid, strict=True))
    summed = t[:, None, None] + h[:, None] + w
    return summed.reshape(-1, summed.shape[-1])

  def _masks(self, condition: Condition) -> Masks | None:
    if condition.objects is None or not self.config.masked_blocks:
      return None
    (places,) = condition.objects.places
    prompts, bits = self.text(condition.objects.prompts, prompts=True)
    region, present = (x.reshape(x.shape[0], -1) for x in (places.region, places.present))
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order)
    return Masks(order, self._pairs(region, region), prompts, self._pairs(present, bits))

  def _pairs(self, q_bits: Array, k_bits: Array) -> AttentionMask:
    config = self.config
    return AttentionMask.make(q_bits, k_bits, config.width // config.heads, config.dtype)

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


# Where each parameter lies on the mesh: the first pattern that occurs in its path decides.
# Stacked blocks have a leading layer axis that no mesh axis splits.
SHARDING = (
  ('blocks.*(query|key|value|gate|up).kernel', (None, 'fsdp', 'tensor')),
  ('blocks.*(out|down).kernel', (None, 'tensor', 'fsdp')),
  ('(projections|embed|time|modulation).*kernel', ('fsdp', 'tensor')),
  ('head.kernel', ('fsdp', None)),
  ('words.table', ('fsdp', None)),
)


def forward_flops(config: DiTConfig, tokens: int, text: int, prompts: int, allowed: float) -> float:
  """Floating-point operations of one forward pass of one sample, matrix products only.

  Args:
    tokens: N of the video.
    text: tokens of the caption; prompts: tokens of all object prompts.
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


def transfer(source: dict, target: dict) -> dict:
  """Brings the parameters of one DiT into another that differs in task or masked blocks.

  The layers of the source are dealt out again between masked blocks and the rest. Parameters that
  the source lacks, or has for another visual condition, keep their initial value: zero input
  weights, closed gates. The extra attentions of masked blocks are taken as they are where the
  networks agree in the number of these blocks, else they copy their siblings.

  Args:
    source, target: nested dicts of arrays, as `nnx.to_pure_dict` gives them; same width and depth.

  Returns:
    Like target.
  """
  target = jax.tree.map(lambda x: x, target)
  layers = _layers(source)
  count = jax.tree.leaves(target['masked_blocks'])[0].shape[0] if 'masked_blocks' in target else 0
  shared = {k: v for k, v in source.items() if k in target and 'blocks' not in k}
  if _shapes(shared.get('embed_visual')) != _shapes(target.get('embed_visual')):
    shared.pop('embed_visual', None)
  out = {**target, **shared}
  if 'blocks' in target:
    out['blocks'] = jax.tree.map(lambda x: x[count:], layers)
  if count:
    base = jax.tree.map(lambda x: x[:count], layers)
    masked = {**target['masked_blocks'], 'base': base}
    same = _masked_count(source) == count
    for name, sibling in (('masked_self', 'self'), ('masked_cross', 'cross')):
      if name in masked:
        if same and name in source['masked_blocks']:
          masked[name] = source['masked_blocks'][name]
        else:
          copies = {'norm': base[f'{sibling}_norm'], 'attention': base[f'{sibling}_attention']}
          masked[name] = {**masked[name], **copies}
    out['masked_blocks'] = masked
  return out


def _shapes(params: dict | None) -> list[tuple[int, ...]]:
  return [x.shape for x in jax.tree.leaves(params)]


def _masked_count(params: dict) -> int:
  return jax.tree.leaves(params['masked_blocks'])[0].shape[0] if 'masked_blocks' in params else 0


def _layers(params: dict) -> dict:
  """The plain parts of all blocks, stacked in order."""
  parts = []
  if 'masked_blocks' in params:
    parts.append(params['masked_blocks']['base'])
  if 'blocks' in params:
    parts.append(params['blocks'])
  return jax.tree.map(lambda *x: jnp.concatenate(x), *parts) if len(parts) > 1 else parts[0]
