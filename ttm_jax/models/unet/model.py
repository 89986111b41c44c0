"""The U-Net of the paper: Stable Diffusion 1.5 with the motion modules of AnimateDiff v3.

The layout is that of `UNetMotionModel` in diffusers without a motion module in the middle block, so
that open weights can be loaded (see `models.unet.open_weights`). At every level, a unit is a
residual block, then a transformer over the pixels of each frame, then a motion module over time.
The deepest level has no transformer. The first `masked_blocks` transformers of the encoder have the
two extra layers of Through-The-Mask (paper, section 3.3); with the default sizes, six are all of
them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ttm_jax.conditioning import EVERYONE, Condition, Objects, TokenMasks
from ttm_jax.errors import nearest
from ttm_jax.models.unet.layers import PLAIN, LevelInputs, MaskedParts, ResBlock, SpatialTransformer
from ttm_jax.models.unet.motion import MotionModule
from ttm_jax.nn.attention import AttentionMask
from ttm_jax.nn.convolution import Conv
from ttm_jax.nn.initial import draw_together
from ttm_jax.nn.linear import zeros_init
from ttm_jax.nn.masked_attention import ObjectMasks
from ttm_jax.nn.norms import GroupNorm
from ttm_jax.nn.time_embedding import TimeEmbedding
from ttm_jax.ops import rematerialization
from ttm_jax.ops.object_attention import sort, sort_by_object
from ttm_jax.parallel.sharded_attention import over_samples
from ttm_jax.text.encoders import TextEncoderSpec, TextProjector

Array = jax.Array

SCOPES = ('spatiotemporal', 'spatial', 'skip_level0')
MOTION_NORMS = ('clip', 'frame')


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Sizes of the U-Net; the defaults are Stable Diffusion 1.5 with AnimateDiff v3.

  Attributes:
    widths: channels of each level; height and width are halved between levels.
    units: units per level of the encoder; the decoder has one more per level.
    heads: heads of every attention.
    groups: groups of every group norm.
    text_width: width of the text embeddings that the transformers read.
    masked_blocks: K, the number of encoder transformers with the extra layers, from the first on;
      at most units * (levels - 1), 6 by default.
    masked_self: whether these transformers have masked self-attention (ablations).
    masked_cross: whether these transformers have masked cross-attention (ablations).
    masked_init: how these layers are initialized, a name in `nn.masked_attention.MASKED_INITS`.
    masked_scope: scope of masked self-attention: 'spatiotemporal' (over all frames, the paper's
      equations), 'spatial' (within each frame), or 'skip_level0' (over all frames, but omitted at
      the finest level).
    motion_norm: what the first norm of a motion module takes its statistics over: the 'clip' (as in
      diffusers) or each 'frame' (as in AnimateDiff's code).
    motion_length: maximum number of latent frames, the length of the position tables of the motion
      modules.
    channels: C of the generated latents.
    visual_channels: channels of the visual condition; their input weights are initialized to zero.
    guidance_inputs: whether guidance scales are inputs (see `guidance_inputs.py`).
    dtype: compute dtype, 'bfloat16' or 'float32'.
    remat: what the backward pass recomputes of each layer: 'none', 'dots' (all but matrix products
      and attention; convolutions are recomputed), 'full', or 'offload' (all; layer inputs are
      offloaded to host memory).

  Raises:
    ValueError: if a field is out of range or unknown.
  """

  widths: tuple[int, ...] = (320, 640, 1280, 1280)
  units: int = 2
  heads: int = 8
  groups: int = 32
  text_width: int = 768
  masked_blocks: int = 0
  masked_self: bool = True
  masked_cross: bool = True
  masked_init: str = 'gate'
  masked_scope: str = 'spatiotemporal'
  motion_norm: str = 'clip'
  motion_length: int = 32
  channels: int = 4
  visual_channels: int = 0
  guidance_inputs: bool = False
  dtype: str = 'bfloat16'
  remat: str = 'full'

  def __post_init__(self):
    for width in self.widths:
      if width % self.heads or width % self.groups:
        raise ValueError(
          f'width {width} must be a multiple of heads {self.heads} and of groups {self.groups}'
        )
    most = self.units * (len(self.widths) - 1)
    if not 0 <= self.masked_blocks <= most:
      raise ValueError(f'masked_blocks must be 0 to {most}, got {self.masked_blocks}')
    for name, value, known in (
      ('masked_scope', self.masked_scope, SCOPES),
      ('motion_norm', self.motion_norm, MOTION_NORMS),
      ('remat', self.remat, list(rematerialization.POLICIES)),
    ):
      if value not in known:
        raise ValueError(f'{name} {value!r} must be one of {known}{nearest(value, known)}')

  def masked(self, level: int, unit: int) -> MaskedParts:
    """Return which masked layers an encoder transformer has.

    Args:
      level: index of the level, 0 is the finest.
      unit: index of the unit in the level.
    """
    has_masks = level * self.units + unit < self.masked_blocks
    skipped = self.masked_scope == 'skip_level0' and level == 0
    return MaskedParts(
      self_attention=has_masks and self.masked_self and not skipped,
      cross_attention=has_masks and self.masked_cross,
      init=self.masked_init,
      within_frames=self.masked_scope == 'spatial',
    )


class Unit(nnx.Module):
  """Residual block, transformer and motion module; the last two are optional."""

  def __init__(
    self,
    config: UNetConfig,
    d_in: int,
    d: int,
    *,
    spatial: bool,
    motion: bool,
    masked: MaskedParts = PLAIN,
    rngs: nnx.Rngs,
  ):
    heads, groups, dtype = config.heads, config.groups, jnp.dtype(config.dtype)
    self.resnet = ResBlock(d_in, d, 4 * config.widths[0], groups, rngs=rngs, dtype=dtype)
    self.spatial = (
      SpatialTransformer(d, heads, config.text_width, groups, masked, rngs=rngs, dtype=dtype)
      if spatial
      else None
    )
    clip = config.motion_norm == 'clip'
    self.motion = MotionModule(d, heads, groups, clip, rngs=rngs, dtype=dtype) if motion else None

  def __call__(
    self, h: Array, time: Array, inputs: LevelInputs, run: Callable[..., Array]
  ) -> Array:
    """Map h [B, T, H, W, d_in] to [B, T, H, W, d].

    Args:
      h: activations.
      time: [B, 4 * widths[0]], the activated time embedding.
      inputs: text and masks of the level.
      run: called as (layer, h, ...) for each layer; it applies rematerialization.
    """
    h = run(self.resnet, h, time)
    if self.spatial is not None:
      h = run(self.spatial, h, inputs)
    return h if self.motion is None else run(self.motion, h)


class UNetLevel(nnx.Module):
  """The units of one level, and the convolution that leads to the next level."""

  def __init__(self, units: Iterable[Unit], resample: Conv | None = None):
    self.units = numbered(units)
    self.resample = resample


class UNet(nnx.Module):
  """The denoiser: (x_t, t, condition) -> prediction."""

  def __init__(
    self, config: UNetConfig, encoders: Mapping[str, TextEncoderSpec], *, rngs: nnx.Rngs
  ):
    widths, dtype = config.widths, jnp.dtype(config.dtype)
    first, last, deepest = widths[0], widths[-1], len(widths) - 1
    self.config = config
    self.conv_in = Conv(config.channels, first, rngs=rngs, dtype=dtype)
    self.conv_visual = (
      Conv(config.visual_channels, first, rngs=rngs, dtype=dtype, bias=False, init=zeros_init)
      if config.visual_channels
      else None
    )
    self.time = TimeEmbedding(4 * first, rngs=rngs, width=first, scales=config.guidance_inputs)
    self.text = TextProjector(encoders, config.text_width, rngs=rngs, dtype=dtype, as_they_are=True)

    def unit(d_in: int, d: int, level: int, **options) -> Unit:
      return Unit(config, d_in, d, spatial=level < deepest, motion=True, rngs=rngs, **options)

    def resample(d: int, wanted: bool, stride: int) -> Conv | None:
      return Conv(d, d, rngs=rngs, dtype=dtype, stride=stride) if wanted else None

    down, kept, width = [], [first], first
    for level, d in enumerate(widths):
      units = []
      for j in range(config.units):
        units.append(unit(width, d, level, masked=config.masked(level, j)))
        width = d
      kept += [d] * (config.units + (level < deepest))
      down.append(UNetLevel(units, resample(d, level < deepest, stride=2)))
    self.down = numbered(down)
    self.middle = UNetLevel(
      Unit(config, last, last, spatial=spatial, motion=False, rngs=rngs)
      for spatial in (True, False)
    )
    up = []
    for level, d in reversed(list(enumerate(widths))):
      units = []
      for _ in range(config.units + 1):
        units.append(unit(width + kept.pop(), d, level))
        width = d
      up.append(UNetLevel(units, resample(d, level > 0, stride=1)))
    self.up = numbered(up)
    self.norm = GroupNorm(first, config.groups, eps=1e-5)
    self.conv_out = Conv(first, config.channels, rngs=rngs, dtype=dtype, init=zeros_init)

  def __call__(self, x_t: Array, t: Array, condition: Condition) -> Array:
    """Predict at one diffusion time.

    Args:
      x_t: noisy latents, float32 [B, T', H', W', C].
      t: diffusion time, float32 [B]: the index of the noising step.
      condition: see `Condition`. `visual` must be given iff the model has visual channels. If
        objects are given, `token_masks` has an entry for each level with transformers; entries of
        coarser levels are ignored.

    Returns:
      float32, the shape of x_t.

    Raises:
      ValueError: if shapes do not match the configuration.
    """
    self._check(x_t, condition)
    h = self.conv_in(x_t)
    if self.conv_visual is not None and condition.visual is not None:
      h = h + self.conv_visual(condition.visual)
    time = jax.nn.silu(self.time(t, condition.scales))
    levels = self._levels(x_t.shape[:4], condition)
    kept = [h]
    for stage, level in zip(self.down.values(), levels, strict=True):
      for unit in stage.units.values():
        h = unit(h, time, level, self._run)
        kept.append(h)
      if stage.resample is not None:
        h = stage.resample(h)
        kept.append(h)
    for unit in self.middle.units.values():
      h = unit(h, time, levels[-1], self._run)
    for stage, level in zip(self.up.values(), reversed(levels), strict=True):
      for unit in stage.units.values():
        h = unit(jnp.concatenate([h, kept.pop()], -1), time, level, self._run)
      if stage.resample is not None:
        h = stage.resample(h.repeat(2, axis=2).repeat(2, axis=3))
    return self.conv_out(jax.nn.silu(self.norm(h))).astype(jnp.float32)

  def _run(self, layer: nnx.Module, h: Array, *known: Any) -> Array:
    """Return layer(h, *known), rematerialized as configured.

    Each layer is rematerialized separately. The largest tensors are the operands of attention in
    the layout of the kernels, those of a transformer and those of a motion module. Separate
    rematerialization keeps the two from being in memory at the same time.
    """
    return rematerialization.apply(self.config.remat, layer, over_samples(h), *known)

  def _levels(self, shape: tuple[int, ...], condition: Condition) -> list[LevelInputs]:
    """Return the inputs of the transformers of each level; their masks are computed once."""
    b, frames, height, width = shape
    text, text_bits = self.text(condition.text)
    objects = condition.objects if self.config.masked_blocks else None
    prompts = None if objects is None else self.text(objects.prompts, prompts=True)
    levels = []
    for i in range(len(self.config.widths)):
      tokens = frames * (height >> i) * (width >> i)
      # The barrier hides a constant from the compiler, which would otherwise evaluate the block
      # lists at compile time, slowly.
      everyone = jax.lax.optimization_barrier(jnp.full((b, tokens), EVERYONE, jnp.int32))
      masks, parts = None, self.config.masked(i, 0)
      has_masks = parts.self_attention or parts.cross_attention
      if objects is not None and prompts is not None and has_masks:
        masks = self._object_masks(i, objects.token_masks[i], *prompts)
      levels.append(LevelInputs(text, self._mask(i, everyone, text_bits), masks))
    return levels

  def _object_masks(
    self, level: int, masks: TokenMasks, prompts: Array, bits: Array
  ) -> ObjectMasks:
    """Return the masks and prompts of the masked layers of one level, in sorted token order."""
    b, frames = masks.region.shape[:2]
    rows = b * frames if self.config.masked_scope == 'spatial' else b
    region, present = (x.reshape(rows, -1) for x in (masks.region, masks.present))
    order = sort_by_object(region, present)
    region, present = sort(region, order), sort(present, order).reshape(b, -1)
    self_mask = self._mask(level, region, region)
    return ObjectMasks(order, self_mask, prompts, self._mask(level, present, bits))

  def _mask(self, level: int, q_bits: Array, k_bits: Array) -> AttentionMask:
    config = self.config
    return AttentionMask.make(q_bits, k_bits, config.widths[level] // config.heads, config.dtype)

  def _check(self, x_t: Array, condition: Condition) -> None:
    config = self.config
    _, frames, height, width, channels = x_t.shape
    halvings = len(config.widths) - 1
    if frames > config.motion_length:
      raise ValueError(f'{frames} latent frames exceed motion_length {config.motion_length}')
    if height % 2**halvings or width % 2**halvings:
      raise ValueError(f'latents of {height} x {width} cannot be halved {halvings} times')
    got = 0 if condition.visual is None else condition.visual.shape[-1]
    if channels != config.channels or got != config.visual_channels:
      raise ValueError(
        f'the model takes {config.channels} channels of noisy latents and {config.visual_channels}'
        f' of visual condition, got {channels} and {got}'
      )
    objects: Objects | None = condition.objects
    if objects is not None and config.masked_blocks:
      wanted = [(frames, height >> i, width >> i) for i in range(halvings)]
      found = [p.region.shape[1:] for p in objects.token_masks]
      if found[:halvings] != wanted:
        raise ValueError(f'token_masks must be on the grids {wanted}, got {found}')


def create(
  config: UNetConfig, encoders: Mapping[str, TextEncoderSpec], *, rngs: nnx.Rngs
) -> nnx.Module:
  """Return a U-Net with initial parameters, drawn by a program that compiles quickly."""
  return draw_together(functools.partial(UNet, config, encoders), rngs)


def numbered(modules: Iterable[nnx.Module]) -> nnx.Dict:
  """Return modules under the keys '0', '1', ..., which checkpoints restore unchanged."""
  return nnx.Dict({str(i): module for i, module in enumerate(modules)})
