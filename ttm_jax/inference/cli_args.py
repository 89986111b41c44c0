"""Command-line flags for the image, prompts and models of `generate` and `describe`.

`ttm_jax.generate` and `data_tools.describe` share them. Model flags have the same names as in
`data_tools.prepare`.
"""

import argparse
import math

from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.flags import add_device_flags, add_model_flags

# The flags that name a model.
MODELS = ('llm', 'detector', 'sam')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Add the flags for the image, its prompts and the models that find what is not given."""
  add = parser.add_argument
  add('--image', help='image to animate')
  add(
    '--segmentation',
    help='palette or gray PNG: 0 background, 1 to 8 objects; default: found by --detector, --sam',
  )
  add('--prompt', help='what the video shows')
  add('--motion', help='what moves and how; default: written by --llm, otherwise the prompt')
  add(
    '--object',
    action='append',
    default=[],
    help='"ID: what this object does"; repeat per object; default: written by --llm',
  )
  models = parser.add_argument_group(
    'models that find what is not given, by folder or hub id; they need PyTorch'
  )
  add_model_flags(models)
  add = models.add_argument
  add(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: hub id or folder of a text encoder; default: as named by the dataset',
  )
  add_device_flags(models)


def check_flags(args: argparse.Namespace) -> None:
  """Raise InputError if a numeric flag of `add_flags` is out of range.

  Text flags are checked by their parsers.
  """
  check_number('--threshold', args.threshold, 0, 1)
  if args.model_batch < 1:
    raise InputError(f'--model_batch {args.model_batch}: must be at least 1')


def check_number(
  option: str, value: float | None, least: float = 0.0, most: float = math.inf
) -> None:
  """Raise InputError unless `value` is None, or finite and least <= value <= most."""
  if value is None:
    return
  if not math.isfinite(value) or not least <= value <= most:
    upper = '' if most == math.inf else f' and at most {most:g}'
    raise InputError(f'{option} {value:g}: must be a finite number of at least {least:g}{upper}')


def check_steps(steps: int | None) -> None:
  """Raise InputError if the number of sampling steps is given and below 1."""
  if steps is not None and steps < 1:
    raise InputError(f'--steps {steps}: must be at least 1; leave it out for the configured number')


def check_seed(seed: int) -> None:
  """Raise InputError unless a seed is valid for the random generators of both JAX and PyTorch."""
  if not 0 <= seed < 2**63:
    raise InputError(f'--seed {seed}: must be from 0 to {2**63 - 1}')


def reads(args: argparse.Namespace) -> dict[str, str | list[str] | None]:
  """Return the files and folders that the flags name, by flag, for `ttm_jax.outputs.check`.

  Raises:
    InputError: If a --text flag is not of the form NAME=MODEL.
  """
  names = ('image', 'segmentation', *MODELS, 'motion_template', 'objects_template')
  named: dict[str, str | list[str] | None] = {f'--{name}': getattr(args, name) for name in names}
  return {**named, '--text': list(parse_texts(args.text).values())}


def parse_objects(texts: list[str]) -> dict[int, str]:
  """Return object prompts by object id.

  Args:
    texts: Values of --object, in the form 'ID: PROMPT'.

  Raises:
    InputError: If a text is not of this form, or an object has two prompts.
  """
  prompts: dict[int, str] = {}
  for number, prompt in map(parse_object, texts):
    if number in prompts:
      raise InputError(f'--object gives object {number} two prompts; join them to one')
    prompts[number] = prompt
  return prompts


def parse_object(text: str) -> tuple[int, str]:
  """Split '1: a dog that runs' into (1, 'a dog that runs').

  Raises:
    InputError: If the text is not of the form 'ID: PROMPT'.
  """
  number, colon, prompt = text.partition(':')
  number, prompt = number.strip(), prompt.strip()
  # `isdecimal`, since `isdigit` accepts superscripts, which `int` rejects. `int` also rejects very
  # long numbers.
  if not colon or not number.isdecimal() or len(number) > 9 or not prompt:
    raise InputError(f'--object "{text}": write the id in the mask, a colon and what it does')
  return int(number), prompt


def parse_texts(texts: list[str]) -> dict[str, str]:
  """Return the models of text encoders by encoder name.

  Args:
    texts: Values of --text, such as 'clip=openai/clip-vit-large-patch14'.

  Raises:
    InputError: If a text is not of the form NAME=MODEL.
  """
  return parse_named('--text', texts)


def parse_named(option: str, texts: list[str]) -> dict[str, str]:
  """Return models by name.

  Args:
    option: The option, for error messages.
    texts: Its values, such as 'clip=openai/clip-vit-large-patch14'.

  Raises:
    InputError: If a text is not of the form NAME=MODEL.
  """
  found = {}
  for text in texts:
    name, equals, model = text.partition('=')
    if not equals or not name or not model:
      raise InputError(f'{option} {text}: write NAME=MODEL, as clip=openai/clip-vit-large-patch14')
    found[name] = model
  return found
