"""The word encoder, text projections, and the prompts that each token attends to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ttm_jax.conditioning import EVERYONE, Tokens
from ttm_jax.errors import InputError
from ttm_jax.scenes import captions as scene_words
from ttm_jax.text.encoders import (
  TextEncoderSpec,
  TextProjector,
  caption_tokens,
  pad,
  prompt_tokens,
  total_tokens,
)
from ttm_jax.text.word_ids import END, MAX_LENGTH, PAD, VOCABULARY, tokenize, word_id
from ttm_jax.text.words import WordEncoder


def test_words_of_scenes_have_ids_of_their_own():
  vocabulary = scene_words.vocabulary()
  ids = {word_id(word) for word in vocabulary}
  assert len(ids) == len(vocabulary) > 60
  assert min(ids) > END and max(ids) < VOCABULARY


def test_tokenize():
  red, ball = word_id('red'), word_id('ball')
  ids, count = tokenize('Red, ball!', 5)
  assert ids.dtype == np.int32
  assert (ids.tolist(), count) == ([red, ball, END, PAD, PAD], 3)
  assert tokenize('red-ball', 3)[0].tolist() == [red, ball, END]
  ids, count = tokenize('a red ball rolls far away', 3)
  assert (ids.tolist(), count) == ([word_id('a'), red, END], 3)
  for empty in ('', ' ... '):
    ids, count = tokenize(empty, 3)
    assert (ids.tolist(), count) == ([END, PAD, PAD], 1)
  assert tokenize('red', 1)[0].tolist() == [END]


def test_ids_never_change():
  # Datasets store these ids: another hash would make them meaningless.
  assert [word_id(word) for word in ('red', 'circle', 'rises')] == [1596, 2910, 3044]


def test_words_of_any_script():
  ids, count = tokenize('Der Bär läuft.', 8)
  assert ids[:4].tolist() == [*map(word_id, ('der', 'bär', 'läuft')), END] and count == 4
  assert tokenize('ba\u0308r', 2)[0].tolist() == tokenize('b\u00e4r', 2)[0].tolist()
  assert tokenize('球が上がる', 4)[1] == 2
  assert tokenize("it's red_hot", 5)[0][:3].tolist() == [*map(word_id, ("it's", 'red', 'hot'))]


@pytest.mark.parametrize('length', [0, MAX_LENGTH + 1])
def test_length_is_limited_to_the_positions_of_the_encoder(length):
  with pytest.raises(InputError, match=f'1 to {MAX_LENGTH} words, got a length of {length}'):
    tokenize('red', length)


def test_tokens_of_captions_and_prompts():
  caption = caption_tokens(jnp.ones((2, 4, 3)), jnp.array([3, 0]))
  np.testing.assert_array_equal(caption.bits, [[EVERYONE] * 3 + [0], [0] * 4])
  assert caption.bits.dtype == jnp.int32
  embedding = jnp.arange(2 * 3 * 2 * 5.0).reshape(2, 3, 2, 5)
  prompts = prompt_tokens(embedding, jnp.array([[2, 0, 1], [1, 1, 2]]))
  np.testing.assert_array_equal(prompts.bits, [[2, 2, 0, 0, 8, 0], [2, 0, 4, 0, 8, 8]])
  assert prompts.bits.dtype == jnp.int32
  np.testing.assert_array_equal(prompts.embedding, embedding.reshape(2, 6, 5))
  ids = prompt_tokens(jnp.ones((1, 8, 2), jnp.int32), jnp.full((1, 8), 2))
  assert ids.embedding.shape == (1, 16) and int(ids.bits[0, -1]) == 256


def test_sizes():
  encoders = {'a': TextEncoderSpec(4, 10, 3), 'b': TextEncoderSpec(8, 20, 5)}
  assert total_tokens(encoders, 8) == (30, 64)
  assert pad(np.array([3, 4, 5]), 2).tolist() == [3, 4]
  assert pad(np.array([[3.0, 4.0]]), 3).tolist() == [[3, 4], [0, 0], [0, 0]]


@pytest.fixture(scope='module')
def encode():
  """Encode words with parameters large enough to distinguish texts."""
  graphdef, params = nnx.split(WordEncoder(8, rngs=nnx.Rngs(0)))
  params = jax.tree.map(lambda x: x * (1 if x.ndim == 1 else 20), params)

  @functools.partial(jax.jit, static_argnames='length')
  def run(ids, bits, length):
    return nnx.merge(graphdef, params)(ids, bits, length)

  return run


def as_caption(text, length):
  ids, count = tokenize(text, length)
  return np.array([ids]), caption_tokens(ids[None], np.array([count])).bits


def test_order_of_words_matters(encode):
  texts = ('the ball rises and the star falls', 'the star rises and the ball falls')
  one, other = (
    dict(zip(text.split(), encode(*as_caption(text, 8), 8)[0], strict=False)) for text in texts
  )
  for word in ('ball', 'star', 'rises', 'falls'):
    assert np.abs(one[word] - other[word]).max() > 0.01


def test_padding_does_not_matter(encode):
  short = encode(*as_caption('the ball rises', 4), 4)
  np.testing.assert_allclose(encode(*as_caption('the ball rises', 7), 7)[:, :4], short, atol=1e-5)
  ids, bits = as_caption('the ball rises', 7)
  before = encode(ids, bits, 7)
  ids[:, 4:] = 77
  np.testing.assert_array_equal(encode(ids, bits, 7)[:, :4], before[:, :4])


def test_prompts_are_read_one_by_one(encode):
  texts = ['a ball that rises', '', 'a star']
  ids, counts = zip(*(tokenize(text, 6) for text in texts), strict=True)
  tokens = prompt_tokens(np.array([ids]), np.array([counts]))
  together = encode(tokens.embedding, tokens.bits, 6)
  for i, text in enumerate(texts):
    alone = encode(*as_caption(text, 6), 6)[0, : counts[i]]
    np.testing.assert_allclose(together[0, 6 * i : 6 * i + counts[i]], alone, atol=1e-5)


def test_projection_of_several_encoders():
  d = 12
  encoders = {'t5': TextEncoderSpec(5, 3, 2), 'words': TextEncoderSpec(8, 4, 3)}
  model = TextProjector(encoders, d, rngs=nnx.Rngs(0), dtype=jnp.float32)
  embedding = jax.random.normal(jax.random.key(0), (2, 3, 5))
  t5 = caption_tokens(embedding, jnp.array([3, 2]))
  ids = jnp.array([tokenize('red ball', 4)[0], tokenize('star', 4)[0]])
  text = {'words': caption_tokens(ids, jnp.array([3, 2])), 't5': t5}
  sequence, bits = model(text)
  # In the order of the configuration, not of the batch.
  np.testing.assert_array_equal(bits, np.concatenate([t5.bits, text['words'].bits], 1))
  projected = np.asarray(embedding) @ np.asarray(model.projections['t5'].kernel[...])
  size = np.sqrt((projected**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(sequence[:, :3], projected / size, rtol=1e-4, atol=1e-5)
  inner = np.asarray(model.words(ids, text['words'].bits, 4))
  projected = inner @ np.asarray(model.projections['words'].kernel[...])
  size = np.sqrt((projected**2).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(sequence[:, 3:], projected / size, rtol=1e-3, atol=1e-4)

  # Positions of each prompt are counted from its start.
  slots = np.stack([tokenize('red ball', 3)[0]] * 2)[None]
  prompts = {
    't5': Tokens(embedding[:1, :2].repeat(2, 1), jnp.array([[2, 2, 4, 4]], jnp.int32)),
    'words': prompt_tokens(slots, np.array([[3, 3]])),
  }
  sequence, bits = model(prompts, prompts=True)
  assert bits.tolist() == [[2, 2, 4, 4, 2, 2, 2, 4, 4, 4]]
  np.testing.assert_allclose(sequence[:, 4:7], sequence[:, 7:], atol=1e-6)
