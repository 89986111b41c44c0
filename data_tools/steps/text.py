"""Embeddings of texts by any encoder of transformers: CLIP, T5, UL2, umT5, ByT5.

    python -m data_tools.steps.text --model google/umt5-xxl --text "A dog runs." --length 64 \\
        --out dog.safetensors

What a dataset stores of a text is its last hidden states and how many of them count. Encoders of
the T5 family mask their padding, so only real tokens count. CLIP attends to all of its 77 places
and diffusion models are used to seeing all of them, so all count.
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

_MOST_TOKENS = 1 << 16  # Of one text; no dataset could hold many of more.
_KEPT = 4096  # Texts remembered: variants of a clip share theirs, and the empty text comes often.


class TransformersText:
  """A text encoder as `ttm_jax.data.encode.TextEncoder`: (texts, length) to (embeddings, lengths).

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
    # The texts of a CLIP have a configuration of their own.
    text = getattr(config, 'text_config', config)
    self.dim = int(getattr(text, 'd_model', None) or text.hidden_size)
    # T5's relative positions have no end.
    self._longest = getattr(text, 'max_position_embeddings', None)
    self._one = functools.lru_cache(_KEPT)(lambda text, length: self._encode([text], length)[0])

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float16 [n, length, dim], zero where no token counts, and counts int32 [n].

    A text of more tokens loses its end; its last token is then the one that ends a text.

    Raises:
      InputError: the encoder has fewer places than `length`, or a text is no Unicode.
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
    # CLIP was trained without a mask for its padding, and diffusion models use it so.
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
  """One encoder of a dataset, as `parse` reads it.

  Attributes:
    name: under which the dataset keeps its embeddings.
    weights: where it comes from.
    length, prompt_length: tokens of a caption, and of one object prompt.
  """

  name: str
  weights: ModelSource
  length: int
  prompt_length: int

  @classmethod
  def parse(cls, text: str, weights: ModelSource) -> 'TextSettings':
    """'clip=FOLDER:77:77' or 't5=google/t5-v1_1-xxl:128:64'; device and dtype as in `weights`.

    Raises:
      InputError: it is not of that form.
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
    """How a network sees the encoder, and the encoder."""
    made = TransformersText(self.weights)
    return TextEncoderSpec(made.dim, self.length, self.prompt_length), made


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.text',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser)
  parser.add_argument('--text', required=True, action='append', help='once for each')
  parser.add_argument('--length', type=int, default=77, help='tokens; default 77')
  parser.add_argument('--out', required=True, help='.safetensors with embeddings and lengths')
  args = parser.parse_args(argv)
  with front_door():
    import safetensors.numpy

    embeddings, lengths = TransformersText(from_flags(args))(args.text, args.length)
    safetensors.numpy.save_file({'embeddings': embeddings, 'lengths': lengths}, args.out)
    print(f'{args.out}: {embeddings.shape}, tokens {lengths.tolist()}')


if __name__ == '__main__':
  main()
