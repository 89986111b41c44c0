"""Settings of the pretrained text encoders of a dataset, and a command that embeds texts.

    python -m data_tools.steps.text --model google/umt5-xxl --text "A dog runs." --length 64 \\
        --out dog.safetensors
"""

import dataclasses

from data_tools.steps import command
from ttm_jax.errors import InputError, front_door
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.text_encoder import MAX_TOKENS, TransformersText
from ttm_jax.tensor_file import save_tensors
from ttm_jax.text.encoders import TextEncoderSpec


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
    if not all(n.isdecimal() and len(n) < 9 and 1 <= int(n) <= MAX_TOKENS for n in lengths):
      raise InputError(f'--text {text[:200]}: lengths are whole numbers from 1 to {MAX_TOKENS}')
    return cls(name, weights.of(model), int(lengths[0]), int(lengths[1]))

  def build(self) -> tuple[TextEncoderSpec, TransformersText]:
    """Load the encoder, and return its spec (width and token counts) and the encoder."""
    made = TransformersText(self.weights)
    return TextEncoderSpec(made.dim, self.length, self.prompt_length), made


def main(argv: list[str] | None = None) -> None:
  parser = command.parser('text', __doc__)
  add = parser.add_argument
  add('--text', required=True, action='append', help='text to embed; repeat for several')
  add('--length', type=int, default=77, help='number of tokens; default 77')
  add('--out', required=True, help='output file, .safetensors, with embeddings and lengths')
  args = parser.parse_args(argv)
  with front_door():
    encode = TransformersText(ModelSource.from_flags(args, args.model))
    embeddings, lengths = encode(args.text, args.length)
    save_tensors(args.out, {'embeddings': embeddings, 'lengths': lengths})
    print(f'{args.out}: {embeddings.shape}, tokens {lengths.tolist()}')


if __name__ == '__main__':
  main()
