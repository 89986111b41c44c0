"""From the arrays of a latents dataset to the batch that the tasks read.

The arrays of one record, with T', H', W' latents of C channels, L slots for objects, and for each
text encoder its embeddings [N, D] (word ids [N] for `words`):

    video, trajectory          float16 [T', H', W', C]    means of x and of the rendered s
    true_trajectory            float16 [T', H', W', C]    only where masks were damaged on purpose
                                                          (`trajectory` is of the damaged ones)
    video_logvar, ...          float16, like the means    only where the codec is not deterministic
    first_frame, first_mask    float16 [1, H', W', C]     x0 and s0, encoded as still pictures
    places.G.region            uint8 [t, h, w]            owner of each token on grid G
    places.G.{box,seg}         int32 [t, h, w]            object sets of each token
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
  """Assembles the batch inside jit.

  The latents to generate are drawn from their distributions; those that serve as conditions are
  means, as when generating.

  Args:
    arrays: as above, each with a leading batch axis.
    encoders: names of the text encoders to read.
    cross_mask: 'box' (the paper's reading) or 'seg', for masked cross-attention.
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
    objects=Objects(places(arrays, cross_mask), caption.objects.prompts),
  )


def places(arrays: Mapping[str, Array], cross_mask: str) -> tuple[TokenMasks, ...]:
  """The token masks of all grids, finest first.

  Raises:
    InputError: if the dataset has no masks of that kind.
  """
  if f'places.0.{cross_mask}' not in arrays:
    raise InputError(f"config.data.cross_mask must be 'box' or 'seg', got {cross_mask!r}")
  grids = sum(name.endswith('.region') for name in arrays)
  return tuple(
    TokenMasks(
      region=jnp.left_shift(1, arrays[f'places.{g}.region'].astype(jnp.int32)),
      present=arrays[f'places.{g}.{cross_mask}'],
    )
    for g in range(grids)
  )


def text_condition(arrays: Mapping[str, Array], encoders: Sequence[str], field: str) -> Condition:
  """The texts alone, as a condition: `field` is 'caption' or 'motion'.

  With the arrays of the empty text this is the `null_text` of dropout and guidance.
  """

  def part(name, what, tokens):
    return tokens(arrays[f'text.{name}.{what}'], arrays[f'text.{name}.{what}_length'])

  return Condition(
    text={name: part(name, field, caption_tokens) for name in encoders},
    objects=Objects((), {name: part(name, 'prompts', prompt_tokens) for name in encoders}),
  )
