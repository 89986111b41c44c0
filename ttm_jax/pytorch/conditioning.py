"""What a denoiser is told besides the noisy latents, and guidance by taking parts of it away.

All of it are tuples of tensors, which `torch.utils._pytree` and the hooks of accelerate see into.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EVERYONE = -1  # All 32 bits: shares one with every non-empty set.


class Tokens(NamedTuple):
  """Encoded text, and to whom each token speaks.

  Attributes:
    embedding: [B, N, D], or token ids [B, N] where the network embeds them itself.
    bits: int32 [B, N], the set of objects that may read the token: EVERYONE in a caption, one
      object in an object prompt, 0 on padding.
  """

  embedding: Tensor
  bits: Tensor


Text = dict[str, Tokens]  # One entry a text encoder, by its name.


class TokenMasks(NamedTuple):
  """Where the objects are on one token grid of the backbone.

  A set of objects is an int32 bit mask: bit 0 is the background, bit l is object l (l <= 31).

  Attributes:
    region: the one object that owns each token [B, t, h, w]: exactly one bit set.
    present: the objects whose box covers each token [B, t, h, w]; 0 where there is none.
  """

  region: Tensor
  present: Tensor


class Objects(NamedTuple):
  """Where the objects are, and what is said of each.

  Attributes:
    places: one a token grid of the backbone, finest first: a DiT has one, the U-Net three.
    prompts: the object prompts, concatenated along N.
  """

  places: tuple[TokenMasks, ...]
  prompts: Text


class Condition(NamedTuple):
  """All that a denoiser is given besides the noisy latents and the time.

  Attributes:
    text: what happens.
    visual: latents concatenated to the noisy ones along channels [B, C, T', H', W'], or None.
    objects: for the masked layers. None makes these layers plain ones, where a network has them:
      self-attention among all tokens, cross-attention to `text` (the TI2V baseline).
  """

  text: Text
  visual: Tensor | None = None
  objects: Objects | None = None


Predict = Callable[[Tensor, Tensor, Condition], Tensor]


def caption_tokens(embedding: Tensor, length: Tensor) -> Tokens:
  """A caption: [B, N, ...] of which `length` [B] tokens count -> Tokens for everyone."""
  counts = torch.arange(embedding.shape[1], device=length.device) < length[:, None]
  return Tokens(embedding, torch.where(counts, EVERYONE, 0).to(torch.int32))


def prompt_tokens(embedding: Tensor, length: Tensor) -> Tokens:
  """Object prompts: [B, L, N, ...] of which `length` [B, L] count -> Tokens [B, L N, ...].

  The prompt in slot l - 1 speaks to object l; an empty slot (length 0) to nobody.
  """
  objects, n = embedding.shape[1:3]
  counts = torch.arange(n, device=length.device) < length[..., None]
  bits = 1 << torch.arange(1, objects + 1, device=length.device)[:, None]
  bits = torch.where(counts, bits, 0).to(torch.int32)
  return Tokens(embedding.flatten(1, 2), bits.flatten(1, 2))


def without(condition: Condition, null_text: Condition, *, visual: bool) -> Condition:
  """Takes the text away from all samples and, with `visual`, the visual conditions too.

  The places of the objects are part of the visual condition, their prompts part of the text:
  without the first, every token belongs to one region (masked self-attention becomes plain) and
  no prompt applies; without the second, each prompt is the encoding of the empty string.

  Args:
    condition: a batch of B.
    null_text: a condition of batch 1 or B whose texts encode the empty string.

  Raises:
    ValueError: if the condition holds objects but null_text no prompts.
  """
  picture, objects = condition.visual, condition.objects
  if visual and picture is not None:
    picture = torch.zeros_like(picture)
  if objects is not None:
    if null_text.objects is None:
      raise ValueError('null_text must hold object prompts where the condition holds objects')
    places = objects.places
    if visual:
      nowhere = [(torch.ones_like(p.region), torch.zeros_like(p.present)) for p in places]
      places = tuple(TokenMasks(*masks) for masks in nowhere)
    objects = Objects(places, _like(null_text.objects.prompts, objects.prompts))
  return Condition(_like(null_text.text, condition.text), picture, objects)


def stacked(*conditions: Condition) -> Condition:
  """Several conditions of one kind as one, along the batch."""

  def texts(all_texts: list[Text]) -> Text:
    return {
      name: Tokens(*map(torch.cat, zip(*(text[name] for text in all_texts), strict=True)))
      for name in all_texts[0]
    }

  visual = [c.visual for c in conditions if c.visual is not None]
  objects = [c.objects for c in conditions if c.objects is not None]
  return Condition(
    texts([c.text for c in conditions]),
    torch.cat(visual) if visual else None,
    Objects(
      tuple(
        TokenMasks(*map(torch.cat, zip(*grids, strict=True)))
        for grids in zip(*(o.places for o in objects), strict=True)
      ),
      texts([o.prompts for o in objects]),
    )
    if objects
    else None,
  )


def guided(
  predict: Predict,
  condition: Condition,
  null_text: Condition,
  visual_scale: float,
  text_scale: float,
  rescale: float = 0.0,
) -> Callable[[Tensor, Tensor], Tensor]:
  """Classifier-free guidance with two scales (Brooks et al. 2023, eq. 3).

  All visual conditions count as one, all texts as one.

  Args:
    rescale: how far each sample's standard deviation is drawn back to that of its conditional
      prediction, 0 to 1 (Lin et al. 2024, section 3.4), against over-exposure; see `rescaled`.

  Returns:
    A function of (x_t, t) that runs the network once, on the three stacked conditions; on the
    condition alone where both scales are 1, since the other two then cancel.
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


# A prediction whose standard deviation is a smaller share of its root mean square is constant but
# for rounding.
CONSTANT = 1e-5


def rescaled(mixed: Tensor, full: Tensor, rescale: float) -> Tensor:
  """Draw the standard deviation of each sample of `mixed` [B, ...] back to that of `full`.

  Statistics are float32 whatever the dtype is. A constant sample has no deviation to scale and is
  left alone: the output of a network whose last layer is still zero, for one.

  Args:
    rescale: how far, 0 to 1.

  Returns:
    Like `mixed`.
  """
  axes = tuple(range(1, mixed.ndim))
  x = mixed.float()
  deviation, wanted = (a.std(axes, correction=0, keepdim=True) for a in (x, full.float()))
  flat = deviation <= CONSTANT * x.square().mean(axes, keepdim=True).sqrt()
  ratio = torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, deviation))
  return (x * (rescale * ratio + (1 - rescale))).to(mixed.dtype)


def _like(null: Text, own: Text) -> Text:
  """The empty text for each sample."""
  return {
    name: Tokens(*(a.expand(b.shape) for a, b in zip(null[name], own[name], strict=True)))
    for name in own
  }
