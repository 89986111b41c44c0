"""Text encoders of a run that use precomputed embeddings of image descriptions."""

import os
from collections.abc import Sequence

import numpy as np

from ttm_jax.data.context import Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, TextEncoder
from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described, Embeddings

PathLike = str | os.PathLike[str]


def encoders_of(
  described: Sequence[Described], encoding: Encoding, run: PathLike
) -> dict[str, TextEncoder]:
  """Return the text encoders, by name, with which a run can animate described images.

  Args:
    described: the image descriptions with their embeddings.
    encoding: How the dataset of the run was encoded.
    run: The run, for error messages.

  Raises:
    InputError: If an encoder that the run uses is missing, or is a different model.
  """
  found: dict[str, TextEncoder] = {**TEXT_ENCODERS}
  for name in encoding.encoders:
    if name not in found:
      found[name] = _together(name, described, encoding.models.get(name, ''), run)
  return found


def _together(name: str, described: Sequence[Described], wanted: str, run: PathLike) -> Embeddings:
  """Return the embeddings of all descriptions by one encoder."""
  rows: dict[tuple[str, int], tuple[np.ndarray, int]] = {}
  for one in described:
    if name not in one.texts:
      raise InputError(
        f'run {run} reads text by {name}, of which the description of the picture has nothing;'
        f' describe the picture for that run (python -m data_tools.describe --run {run})'
      )
    if one.texts[name].model != wanted:
      raise InputError(
        f'run {run} reads text by {name} = {wanted}, but the description of the picture has it by'
        f' {one.texts[name].model}; describe the picture for that run'
      )
    rows |= one.texts[name].rows
  return Embeddings(name, wanted, rows)
