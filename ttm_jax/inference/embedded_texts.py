"""Text encoders of a run that use precomputed embeddings of an image description."""

import os

from ttm_jax.data.context import Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, TextEncoder
from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described

PathLike = str | os.PathLike[str]


def encoders_of(described: Described, encoding: Encoding, run: PathLike) -> dict[str, TextEncoder]:
  """Return the text encoders, by name, with which a run can animate a described image.

  Args:
    described: The image description with its embeddings.
    encoding: How the dataset of the run was encoded.
    run: The run, for error messages.

  Raises:
    InputError: If an encoder that the run uses is missing, or is a different model.
  """
  found: dict[str, TextEncoder] = {**TEXT_ENCODERS, **described.texts}
  for name in encoding.encoders:
    if name not in found:
      raise InputError(
        f'run {run} reads text by {name}, of which the description of the picture has nothing;'
        f' describe the picture for that run (python -m data_tools.describe --run {run})'
      )
    wanted = encoding.models.get(name, '')
    if name in described.texts and described.texts[name].model != wanted:
      raise InputError(
        f'run {run} reads text by {name} = {wanted}, but the description of the picture has it by'
        f' {described.texts[name].model}; describe the picture for that run'
      )
  return found
