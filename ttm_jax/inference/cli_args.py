"""What is said of a picture on a command line, and by which models the rest is found.

The flags of `ttm_jax.generate` and `data_tools.describe`; the models are named as in
`data_tools.prepare`.
"""

import argparse
import math

from ttm_jax.errors import InputError

# The flags that name a model.
MODELS = ('llm', 'detector', 'sam')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """What is known of the picture, and the models."""
  add = parser.add_argument
  add('--image', help='the picture to animate')
  add(
    '--segmentation',
    help='palette or grey PNG: 0 background, 1 to 8 objects; default: found by --detector, --sam',
  )
  add('--prompt', help='what the video shows')
  add('--motion', help='what moves and how; default: written by --llm, else the prompt')
  add(
    '--object',
    action='append',
    default=[],
    help='"ID: what this object does"; once an object; default: written by --llm',
  )
  models = parser.add_argument_group(
    'models that find what is not given, by folder or hub id; they need PyTorch'
  )
  add = models.add_argument
  add('--llm', help='language model: motion prompt, object names and prompts')
  add('--detector', help='Grounding DINO: where the named objects are')
  add('--sam', help='SAM 2: their masks')
  add('--sam_backend', default='auto', help='sam2, transformers or auto; default auto')
  add('--threshold', type=float, default=0.25, help='least score of a box; default 0.25')
  add('--motion_template', help='text file instead of data_tools/steps/templates/motion.txt')
  add('--objects_template', help='text file instead of data_tools/steps/templates/objects.txt')
  add(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: where a text encoder of the runs lies, if not where their dataset says',
  )
  add('--device', default='auto', help='default a GPU where there is one')
  add('--dtype', default='auto', help='default bfloat16, on a CPU float32')
  add('--model_batch', type=int, default=8, help='inputs through a model at once; default 8')
  add('--offline', action='store_true', help='take no model from the network')


def check_flags(args: argparse.Namespace) -> None:
  """Raise InputError where a number of `add_flags` is out of its range.

  Texts are checked where they are read.
  """
  check_number('--threshold', args.threshold, 0, 1)
  if args.model_batch < 1:
    raise InputError(f'--model_batch {args.model_batch}: must be at least 1')


def check_number(
  option: str, value: float | None, least: float = 0.0, most: float = math.inf
) -> None:
  """Raise InputError unless a number, where one is given, is finite and least <= value <= most."""
  if value is None:
    return
  if not math.isfinite(value) or not least <= value <= most:
    upper = '' if most == math.inf else f' and at most {most:g}'
    raise InputError(f'{option} {value:g}: must be a finite number of at least {least:g}{upper}')


def check_steps(steps: int | None) -> None:
  """Raise InputError where fewer than one sampling step is asked for."""
  if steps is not None and steps < 1:
    raise InputError(f'--steps {steps}: must be at least 1; leave it out for the configured number')


def check_seed(seed: int) -> None:
  """Raise InputError unless the random generators of JAX and PyTorch both take a seed."""
  if not 0 <= seed < 2**63:
    raise InputError(f'--seed {seed}: must be from 0 to {2**63 - 1}')


def reads(args: argparse.Namespace) -> dict[str, str | list[str] | None]:
  """The files and folders that the flags name, by flag, for `ttm_jax.outputs.check`."""
  names = ('image', 'segmentation', *MODELS, 'motion_template', 'objects_template')
  named: dict[str, str | list[str] | None] = {f'--{name}': getattr(args, name) for name in names}
  return {**named, '--text': list(parse_texts(args.text).values())}


def parse_objects(texts: list[str]) -> dict[int, str]:
  """What each object does, by its id in the mask.

  Raises:
    InputError: a text is not of that form, or two are of one object.
  """
  prompts: dict[int, str] = {}
  for number, prompt in map(parse_object, texts):
    if number in prompts:
      raise InputError(f'--object gives object {number} two prompts; join them to one')
    prompts[number] = prompt
  return prompts


def parse_object(text: str) -> tuple[int, str]:
  """'1: a dog that runs' -> (1, 'a dog that runs')."""
  number, colon, prompt = text.partition(':')
  number, prompt = number.strip(), prompt.strip()
  # `isdigit` is true of superscripts, which `int` refuses; so it does very long numbers.
  if not colon or not number.isdecimal() or len(number) > 9 or not prompt:
    raise InputError(f'--object "{text}": write the id in the mask, a colon and what it does')
  return int(number), prompt


def parse_texts(texts: list[str]) -> dict[str, str]:
  """Models of text encoders by name, of 'clip=openai/clip-vit-large-patch14'.

  Raises:
    InputError: a text is not of that form.
  """
  found = {}
  for text in texts:
    name, equals, model = text.partition('=')
    if not equals or not name or not model:
      raise InputError(f'--text {text}: write NAME=MODEL, as clip=openai/clip-vit-large-patch14')
    found[name] = model
  return found
