"""The pretrained text encoders of runs, and the embeddings of an image description by them.

Only functions that load an encoder need PyTorch.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ttm_jax.data.context import Encoding
from ttm_jax.data.encode import TEXT_ENCODERS, TextEncoder, text_arrays
from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described, Embeddings
from ttm_jax.pytorch.annotation.describe import Tell, check_host, to_stderr
from ttm_jax.pytorch.annotation.model_source import ModelSource, free_gpu_memory
from ttm_jax.pytorch.annotation.text_encoder import TransformersText


def load_encoders(
  encodings: Sequence[Encoding], weights: ModelSource, places: Mapping[str, str] = {}
) -> dict[str, TextEncoder]:
  """Load the text encoders of the runs, by name.

  Args:
    encodings: encodings of the runs; see `read_encoding`.
    weights: device, dtype and offline flag.
    places: hub id or folder of an encoder by its name, instead of that recorded by the runs.

  Raises:
    InputError: if an encoder cannot be loaded, or two runs use one name for different encoders.
  """
  sources = _sources(encodings, places)
  loaded = {name: TransformersText(weights.of(place)) for name, (_, place) in sources.items()}
  return {**TEXT_ENCODERS, **loaded}


def with_embeddings(
  described: Sequence[Described],
  encodings: Sequence[Encoding],
  weights: ModelSource,
  places: Mapping[str, str] = {},
  tell: Tell = to_stderr,
) -> list[Described]:
  """Return descriptions with all embeddings that the runs need of their texts.

  Args:
    described: the descriptions.
    encodings, weights, places: as in `load_encoders`.
    tell: receives progress messages.

  Raises:
    InputError: as in `load_encoders`.
  """
  found: dict[str, Embeddings] = {}
  for name, (model, place) in _sources(encodings, places).items() if described else ():
    check_host()
    tell(f'embeddings by {place}')
    recorded = _Recorded(TransformersText(weights.of(place)))
    for encoding in encodings:
      if name in encoding.encoders:
        alone = dataclasses.replace(encoding, encoders={name: encoding.encoders[name]})
        for one in described:
          text_arrays(alone, {name: recorded}, one.caption, one.motion, one.prompts)
    found[name] = Embeddings(name, model, recorded.rows)
    del recorded
    free_gpu_memory()
  return [dataclasses.replace(one, texts=found) for one in described]


def _sources(
  encodings: Sequence[Encoding], places: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
  """Return the recorded model and the place of each pretrained encoder of the runs, by name.

  Raises:
    InputError: if two runs use one name for different models, or a place is not known.
  """
  found: dict[str, tuple[str, str]] = {}
  for encoding in encodings:
    for name in (name for name in encoding.encoders if name not in TEXT_ENCODERS):
      model = encoding.models.get(name, '')
      place = places.get(name, model)
      if not place:
        raise InputError(
          f'the dataset of a run does not record the model of the text encoder {name}; give --text'
          f' {name}=MODEL'
        )
      if (other := found.setdefault(name, (model, place))[0]) != model:
        raise InputError(
          f'the runs use different models for the text encoder {name}, {other} and {model}; use'
          ' one run at a time'
        )
  return found


class _Recorded:
  """A text encoder that records its outputs, by text and length."""

  def __init__(self, encode: TextEncoder):
    self._encode = encode
    self.rows: dict[tuple[str, int], tuple[np.ndarray, int]] = {}

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    embeddings, counts = self._encode(texts, length)
    for text, row, count in zip(texts, embeddings, counts, strict=True):
      self.rows[text, length] = row, int(count)
    return embeddings, counts
