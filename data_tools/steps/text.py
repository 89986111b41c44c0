"""Embed texts with a text encoder of transformers: CLIP, T5, UL2, umT5, ByT5.

    python -m data_tools.steps.text --model google/umt5-xxl --text "A dog runs." --length 64 \\
        --out dog.safetensors

A dataset stores the last hidden states of a text and the number of valid tokens. Encoders of the T5
family mask their padding, so only the real tokens are valid. CLIP attends to all 77 positions, and
diffusion models are trained with all of them, so all positions are valid.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_tools.steps.weights import ModelSource, add_flags, check_installed, from_flags
from ttm_jax.errors import InputError, front_door
from ttm_jax.pytorch.pretrained import check_texts
from ttm_jax.text.encoders import TextEncoderSpec

_MOST_TOKENS = 1 << 16  # Most tokens of one text; datasets of longer ones would be too large.
_KEPT = 4096  # Size of the cache: variants of a clip share texts, and the empty text is frequent.


class TransformersText:
  """A pretrained text encoder; implements `ttm_jax.data.encode.TextEncoder`.

  Attributes:
    dim: width of the embeddings.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    from transformers import AutoConfig, AutoTokenizer

    config = weights.load_part(AutoConfig)
    self._tokenizer = weights.load_part(AutoTokenizer)
    self._model = weights.load(_encoder_class(config.model_type))
    self._batch = weights.batch
    self._all_count = 'clip' in config.model_type
    # A CLIP configuration has a separate section for its text model.
    text = getattr(config, 'text_config', config)
    self.dim = int(getattr(text, 'd_model', None) or text.hidden_size)
    # None for T5, whose relative positions do not limit the length.
    self._longest = getattr(text, 'max_position_embeddings', None)
    self._one = functools.lru_cache(_KEPT)(lambda text, length: self._encode([text], length)[0])

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embed n texts.

    A text of more than `length` tokens is truncated; its last token is then the end-of-text token.

    Args:
      texts: the texts.
      length: number of tokens to pad or truncate to.

    Returns:
      Embeddings float16 [n, length, dim], zero for invalid tokens, and the number of valid tokens
      int32 [n].

    Raises:
      InputError: if `length` is out of range or exceeds the positions of the encoder, a text is not
        valid Unicode, or an embedding exceeds the range of float16.
    """
    check_texts(texts)
    if not 1 <= length <= _MOST_TOKENS:
      raise InputError(f'a text of {length} tokens: give 1 to {_MOST_TOKENS}')
    if self._longest and length > self._longest:
      raise InputError(f'a text encoder of {self._longest} places cannot give {length} tokens')
    encoded = [self._one(text, length) for text in texts]
    return np.stack([e for e, _ in encoded]), np.array([n for _, n in encoded], np.int32)

  def _encode(self, texts: list[str], length: int) -> list[tuple[np.ndarray, int]]:
    import torch

    tokens = self._tokenizer(
      texts, padding='max_length', truncation=True, max_length=length, return_tensors='pt'
    ).to(self._model.device)
    # CLIP was trained, and is used by diffusion models, without a padding mask.
    mask = None if self._all_count else tokens.attention_mask
    with torch.inference_mode():
      states = self._model(tokens.input_ids, attention_mask=mask).last_hidden_state
    counts = [length] * len(texts) if self._all_count else tokens.attention_mask.sum(1).tolist()
    result = []
    for state, count in zip(states.float().cpu().numpy(), counts, strict=True):
      state[count:] = 0
      if not np.abs(state).max(initial=0) < np.finfo(np.float16).max:
        raise InputError('embeddings beyond float16: run the text encoder with --dtype float32')
      result.append((state.astype(np.float16), int(count)))
    return result


def _encoder_class(model_type: str):
  import transformers

  named = {
    'clip': transformers.CLIPTextModel,
    'clip_text_model': transformers.CLIPTextModel,
    't5': transformers.T5EncoderModel,
    'umt5': transformers.UMT5EncoderModel,
    'mt5': transformers.MT5EncoderModel,
  }
  return named.get(model_type, transformers.AutoModel)


@dataclasses.dataclass(frozen=True)
class TextSettings:
  """Settings of one text encoder of a dataset; see `parse`.

  Attributes:
    name: name of the encoder in the dataset.
    weights: the pretrained model.
    length, prompt_length: number of tokens of a caption and of an object prompt.
  """

  name: str
  weights: ModelSource
  length: int
  prompt_length: int

  @classmethod
  def parse(cls, text: str, weights: ModelSource) -> 'TextSettings':
    """Parse NAME=MODEL:LENGTH:PROMPT_LENGTH, such as 't5=google/t5-v1_1-xxl:128:64'.

    Args:
      text: the value of the flag --text.
      weights: device, dtype and batch size; its `model` is ignored.

    Raises:
      InputError: if the text does not have this form.
    """
    name, equals, rest = text.partition('=')
    model, *lengths = rest.rsplit(':', 2)
    if not equals or not name.isidentifier() or len(lengths) != 2 or not model:
      raise InputError(
        f'--text {text}: write NAME=MODEL:LENGTH:PROMPT_LENGTH, as clip=clip-l:77:77'
      )
    if not all(n.isdecimal() and len(n) < 9 and 1 <= int(n) <= _MOST_TOKENS for n in lengths):
      raise InputError(f'--text {text[:200]}: lengths are whole numbers from 1 to {_MOST_TOKENS}')
    return cls(name, dataclasses.replace(weights, model=model), int(lengths[0]), int(lengths[1]))

  def build(self) -> tuple[TextEncoderSpec, TransformersText]:
    """Load the encoder, and return its spec (width and token counts) and the encoder."""
    made = TransformersText(self.weights)
    return TextEncoderSpec(made.dim, self.length, self.prompt_length), made


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.text',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser)
  parser.add_argument(
    '--text', required=True, action='append', help='text to embed; repeat for several'
  )
  parser.add_argument('--length', type=int, default=77, help='number of tokens; default 77')
  parser.add_argument(
    '--out', required=True, help='output file, .safetensors, with embeddings and lengths'
  )
  args = parser.parse_args(argv)
  with front_door():
    import safetensors.numpy

    embeddings, lengths = TransformersText(from_flags(args))(args.text, args.length)
    safetensors.numpy.save_file({'embeddings': embeddings, 'lengths': lengths}, args.out)
    print(f'{args.out}: {embeddings.shape}, tokens {lengths.tolist()}')


if __name__ == '__main__':
  main()
