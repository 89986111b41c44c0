"""What is said of a picture on a command line, and by which models the rest is found.

The flags of `ttm_jax.generate` and `data_tools.describe`; the models are named as in
`data_tools.prepare`.
"""

import argparse

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
  if not colon or not number.strip().isdigit() or not prompt.strip():
    raise InputError(f'--object "{text}": write the id in the mask, a colon and what it does')
  return int(number), prompt.strip()


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
