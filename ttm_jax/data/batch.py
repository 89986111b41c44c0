"""Assemble training batches from the arrays of a latents dataset.

One record holds the arrays below. Latents have shape [T', H', W', C]. L is the number of object
slots. G numbers the token grids, and E names a text encoder with embeddings [N, D] (word ids [N]
for `words`).

    video, trajectory          float16 [T', H', W', C]    means of x and of the rendered s
    true_trajectory            float16 [T', H', W', C]    only if masks were corrupted as
                                                          augmentation (`trajectory` then
                                                          encodes the corrupted masks)
    video_logvar, ...          float16, like the means    only if the codec is stochastic
    first_frame, first_mask    float16 [1, H', W', C]     x0 and s0, encoded as images
    token_masks.G.region       uint8 [t, h, w]            label of each token on grid G
    token_masks.G.{box,seg}    int32 [t, h, w]            object set of each token
    text.E.{caption,motion}    [N, ...]                   and text.E.{...}_length int32 []
    text.E.prompts             [L, N, ...]                and text.E.prompts_length int32 [L]
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ttm_jax.codecs.base import Moments
from ttm_jax.conditioning import Condition, Objects, TokenMasks
from ttm_jax.errors import InputError
from ttm_jax.tasks import Batch
from ttm_jax.text.encoders import caption_tokens, prompt_tokens

Array = jax.Array


def to_batch(
  arrays: Mapping[str, Array], encoders: Sequence[str], cross_mask: str, key: Array
) -> Batch:
  """Return the batch of a task; traceable by jit.

  Target latents are sampled from their distributions. Conditions use the means, as at inference.

  Args:
    arrays: the arrays listed in the module docstring, each with a leading batch axis.
    encoders: names of the text encoders to read.
    cross_mask: token masks for masked cross-attention: 'box' (bounding boxes, our interpretation of
      the paper) or 'seg' (segmentation masks).
    key: a random key for sampling the latents.

  Returns:
    The batch; its latents are float32 [B, T', H', W', C].

  Raises:
    InputError: the dataset has no token masks of kind `cross_mask`.
  """

  def moments(name):
    logvar = arrays.get(f'{name}_logvar')
    return Moments(
      arrays[name].astype(jnp.float32), None if logvar is None else logvar.astype(jnp.float32)
    )

  video = moments('video').sample(jax.random.fold_in(key, 0))
  true = 'true_trajectory' if 'true_trajectory' in arrays else 'trajectory'
  trajectory = moments(true).sample(jax.random.fold_in(key, 1))

  def repeated(name):
    still = arrays[name].astype(jnp.float32)
    return jnp.broadcast_to(still, (still.shape[0], *video.shape[1:]))

  caption = text_condition(arrays, encoders, 'caption')
  assert caption.objects is not None
  return Batch(
    video=video,
    trajectory=trajectory,
    given_trajectory=arrays['trajectory'].astype(jnp.float32),
    first_frame=repeated('first_frame'),
    first_mask=repeated('first_mask'),
    caption=caption.text,
    motion=text_condition(arrays, encoders, 'motion').text,
    objects=Objects(token_masks(arrays, cross_mask), caption.objects.prompts),
  )


def token_masks(arrays: Mapping[str, Array], cross_mask: str) -> tuple[TokenMasks, ...]:
  """Return the token masks of all grids, finest first.

  Raises:
    InputError: the dataset has no token masks of kind `cross_mask`.
  """
  if f'token_masks.0.{cross_mask}' not in arrays:
    raise InputError(f"config.data.cross_mask must be 'box' or 'seg', got {cross_mask!r}")
  grids = sum(name.endswith('.region') for name in arrays)
  return tuple(
    TokenMasks(
      region=jnp.left_shift(1, arrays[f'token_masks.{g}.region'].astype(jnp.int32)),
      present=arrays[f'token_masks.{g}.{cross_mask}'],
    )
    for g in range(grids)
  )


def text_condition(arrays: Mapping[str, Array], encoders: Sequence[str], field: str) -> Condition:
  """Return a condition that holds only texts: the `field` text and the object prompts.

  Applied to the arrays of the empty text, it returns the `null_text` of condition dropout and
  classifier-free guidance.

  Args:
    arrays: the text arrays listed in the module docstring, each with a leading batch axis.
    encoders: names of the text encoders to read.
    field: 'caption' or 'motion'.
  """

  def part(name, what, tokens):
    return tokens(arrays[f'text.{name}.{what}'], arrays[f'text.{name}.{what}_length'])

  return Condition(
    text={name: part(name, field, caption_tokens) for name in encoders},
    objects=Objects((), {name: part(name, 'prompts', prompt_tokens) for name in encoders}),
  )
