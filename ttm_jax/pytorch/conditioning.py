"""Conditions of a denoiser (text, visual, objects), and classifier-free guidance over them.

All types are tuples or dicts of tensors, so that `torch.utils._pytree` and the hooks of accelerate
find the tensors in them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EVERYONE = -1  # All 32 bits set: intersects every non-empty object set.


class Tokens(NamedTuple):
  """Encoded text, and the objects that may attend to each token.

  Attributes:
    embedding: float [B, N, D], or int32 token ids [B, N] if the network embeds them itself.
    bits: int32 [B, N], the set of objects that may attend to the token: EVERYONE in a caption, one
      object in an object prompt, 0 on padding.
  """

  embedding: Tensor
  bits: Tensor


Text = dict[str, Tokens]  # One entry per text encoder, by its name.


class TokenMasks(NamedTuple):
  """The object sets of the tokens on one token grid of the backbone.

  An object set is an int32 bit mask: bit 0 is the background, bit l is object l (l <= 31).

  Attributes:
    region: int32 [B, t, h, w], the object that each token belongs to: exactly one bit set. Used by
      masked self-attention.
    present: int32 [B, t, h, w], the objects whose box or mask covers each token; 0 if none. Used by
      masked cross-attention.
  """

  region: Tensor
  present: Tensor


class Objects(NamedTuple):
  """Token masks and prompts of the objects.

  Attributes:
    token_masks: one entry per token grid of the backbone, finest first. A DiT has one grid, the
      U-Net three.
    prompts: the prompts of all objects, concatenated along N.
  """

  token_masks: tuple[TokenMasks, ...]
  prompts: Text


class Condition(NamedTuple):
  """All inputs of a denoiser besides the noisy latents and the time.

  Attributes:
    text: the caption (stage 2) or the motion prompt (stage 1).
    visual: latents [B, C, T', H', W'] that are concatenated to the noisy latents along channels, or
      None.
    objects: inputs of the masked layers. With None the masked layers of a network are unmasked:
      self-attention among all tokens, cross-attention to `text` (the TI2V baseline).
    clean_frame: the first latent frame [B, C, 1, H', W'], if it is given without noise (as in Wan
      2.2 TI2V), or None; see `predict_frames`.
    scales: guidance scales as inputs of the network, float32 [B, 2], or None if it takes none.
    origin: latents of the first frame [B, C, 1, H', W'], if the noisy latents are those of the
      difference from it, or None; see `whole_latents`.
  """

  text: Text
  visual: Tensor | None = None
  objects: Objects | None = None
  clean_frame: Tensor | None = None
  scales: Tensor | None = None
  origin: Tensor | None = None


# How the first frame of the target is given: as channels (the paper), as a latent frame without
# noise, or as channels and subtracted from the target.
CONCAT, CLEAN, CHANGE = 'concat', 'clean', 'change'
FIRST_FRAME = (CONCAT, CLEAN, CHANGE)

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


def caption_tokens(embedding: Tensor, length: Tensor) -> Tokens:
  """Return the Tokens of a caption, which all objects may attend to.

  Args:
    embedding: float [B, N, D] or int32 token ids [B, N].
    length: int [B], the number of tokens that are not padding.
  """
  counts = torch.arange(embedding.shape[1], device=length.device) < length[:, None]
  return Tokens(embedding, torch.where(counts, EVERYONE, 0).to(torch.int32))


def prompt_tokens(embedding: Tensor, length: Tensor) -> Tokens:
  """Return the Tokens [B, L N, ...] of object prompts.

  Only object l may attend to the prompt in slot l - 1. No object may attend to an empty slot
  (length 0).

  Args:
    embedding: float [B, L, N, D] or int32 token ids [B, L, N], for L object slots.
    length: int [B, L], the number of tokens of each prompt that are not padding.
  """
  objects, n = embedding.shape[1:3]
  counts = torch.arange(n, device=length.device) < length[..., None]
  bits = 1 << torch.arange(1, objects + 1, device=length.device)[:, None]
  bits = torch.where(counts, bits, 0).to(torch.int32)
  return Tokens(embedding.flatten(1, 2), bits.flatten(1, 2))


def with_clean_frame(latents: Tensor, condition: Condition) -> Tensor:
  """Replace the first frame of latents [B, C, T', H', W'] by the clean one, if there is one."""
  clean = condition.clean_frame
  return latents if clean is None else torch.cat([clean, latents[:, :, 1:]], 2)


def whole_latents(sampled: Tensor, condition: Condition) -> Tensor:
  """Return the latents [B, C, T', H', W'] that sampled ones stand for: add the origin, if any."""
  return sampled if condition.origin is None else sampled + condition.origin


def predict_frames(model: Predict, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
  """Call a network; a clean first frame replaces that of x_t and has time 0 (data).

  Args:
    model: the network.
    x_t: noisy latents [B, C, T', H', W'].
    t: time as the network takes it, float32 [B], 1000 at noise and 0 at data.
    condition: a batch of B samples.
  """
  if condition.clean_frame is None:
    return model(x_t, t, condition)
  times = t[:, None].repeat(1, x_t.shape[2])
  times[:, 0] = 0
  return model(with_clean_frame(x_t, condition), times, condition)


def without(condition: Condition, null_text: Condition, *, visual: bool) -> Condition:
  """Return a condition without its text and, with `visual`, without its visual condition.

  Object prompts are part of the text: each becomes the encoding of the empty string. Token masks
  are part of the visual condition. Without it, all tokens belong to one region, so that masked
  self-attention is full attention, and no object prompt applies to any token.

  Args:
    condition: a batch of B samples.
    null_text: a condition of batch size 1 or B whose texts encode the empty string.
    visual: whether to drop the visual condition too.

  Raises:
    ValueError: if the condition holds objects but null_text does not.
  """
  picture, objects = condition.visual, condition.objects
  if visual and picture is not None:
    picture = torch.zeros_like(picture)
  if objects is not None:
    if null_text.objects is None:
      raise ValueError('null_text must hold object prompts where the condition holds objects')
    token_masks = objects.token_masks
    if visual:
      nowhere = [(torch.ones_like(p.region), torch.zeros_like(p.present)) for p in token_masks]
      token_masks = tuple(TokenMasks(*masks) for masks in nowhere)
    objects = Objects(token_masks, _like(null_text.objects.prompts, objects.prompts))
  text = _like(null_text.text, condition.text)
  return condition._replace(text=text, visual=picture, objects=objects)


def stacked(*conditions: Condition) -> Condition:
  """Concatenate conditions of the same structure along the batch axis."""

  def texts(all_texts: list[Text]) -> Text:
    return {
      name: Tokens(*map(torch.cat, zip(*(text[name] for text in all_texts), strict=True)))
      for name in all_texts[0]
    }

  def joined(tensors: list[Tensor | None]) -> Tensor | None:
    given = [x for x in tensors if x is not None]
    return torch.cat(given) if given else None

  objects = [c.objects for c in conditions if c.objects is not None]
  return Condition(
    texts([c.text for c in conditions]),
    joined([c.visual for c in conditions]),
    Objects(
      tuple(
        TokenMasks(*map(torch.cat, zip(*grids, strict=True)))
        for grids in zip(*(o.token_masks for o in objects), strict=True)
      ),
      texts([o.prompts for o in objects]),
    )
    if objects
    else None,
    joined([c.clean_frame for c in conditions]),
    joined([c.scales for c in conditions]),
    joined([c.origin for c in conditions]),
  )


def guided(
  predict: Predict,
  condition: Condition,
  null_text: Condition,
  visual_scale: float,
  text_scale: float,
  rescale: float = 0.0,
) -> Callable[[Tensor, Tensor], Tensor]:
  """Return a prediction with two-scale classifier-free guidance (Brooks et al. 2023, eq. 3).

  The result is p(none) + visual_scale (p(visual) - p(none)) + text_scale (p(full) - p(visual)). All
  visual conditions share one scale, and all texts the other.

  Args:
    predict: the denoiser, a function of (x_t, t, condition).
    condition: a batch of B samples.
    null_text: a condition of batch size 1 or B whose texts encode the empty string.
    visual_scale: guidance scale of the visual condition; 1 is no guidance.
    text_scale: guidance scale of the text; 1 is no guidance.
    rescale: strength of guidance rescaling, 0 to 1, which reduces over-exposure (Lin et al. 2024,
      section 3.4); see `rescaled`.

  Returns:
    A function of (x_t [B, C, T', H', W'], t [B]) that returns the guided prediction, like x_t. It
    runs the network once, on a batch of the three conditions. If both scales are 1, the
    unconditional terms cancel, and it runs on the condition alone.

  Raises:
    ValueError: if the condition holds objects but null_text does not.
  """
  if visual_scale == text_scale == 1:
    return lambda x_t, t: predict(x_t, t, condition)
  three = stacked(
    condition,
    without(condition, null_text, visual=False),
    without(condition, null_text, visual=True),
  )

  def prediction(x_t: Tensor, t: Tensor) -> Tensor:
    triple = predict(torch.cat([x_t] * 3), torch.cat([t] * 3), three)
    full, visual_only, nothing = triple.chunk(3)
    mixed = nothing + visual_scale * (visual_only - nothing) + text_scale * (full - visual_only)
    return rescaled(mixed, full, rescale) if rescale else mixed

  return prediction


# Below this ratio of standard deviation to root mean square, a prediction is constant up to
# rounding.
CONSTANT = 1e-5


def rescaled(mixed: Tensor, full: Tensor, rescale: float) -> Tensor:
  """Rescale each sample of `mixed` towards the standard deviation of `full`.

  Computes mixed * (rescale * std(full) / std(mixed) + 1 - rescale) (Lin et al. 2024, section 3.4).
  Statistics are float32 for every dtype. A constant sample is left unchanged, since its standard
  deviation is 0; a network whose last layer is still zero returns such samples.

  Args:
    mixed: the guided prediction, float [B, ...].
    full: the prediction of the full condition, like `mixed`.
    rescale: strength, 0 (no change) to 1 (the standard deviation of `full`).

  Returns:
    Like `mixed`, in its dtype.
  """
  axes = tuple(range(1, mixed.ndim))
  x = mixed.float()
  deviation, wanted = (a.std(axes, correction=0, keepdim=True) for a in (x, full.float()))
  flat = deviation <= CONSTANT * x.square().mean(axes, keepdim=True).sqrt()
  ratio = torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, deviation))
  return (x * (rescale * ratio + (1 - rescale))).to(mixed.dtype)


def _like(null: Text, own: Text) -> Text:
  """Expand the empty text to the shapes of `own`."""
  return {
    name: Tokens(*(a.expand(b.shape) for a, b in zip(null[name], own[name], strict=True)))
    for name in own
  }
