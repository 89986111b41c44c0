"""Aesthetic score of a clip: a trained linear head on CLIP image embeddings.

    python -m data_tools.steps.aesthetic --model openai/clip-vit-large-patch14 \\
        --head aesthetic.safetensors --image photo.png

The head is a sequence of linear layers without activations, `layers.N.weight` and `layers.N.bias`,
as in the LAION predictor (improved-aesthetic-predictor). Convert its checkpoint to safetensors
once. Embeddings are normalized to length 1. The score of a clip is the mean over its first, middle
and last frame.
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt
from data_tools.steps.load_sample import still
from data_tools.steps.weights import ModelSource, add_flags, check_installed, from_flags
from ttm_jax.errors import InputError, front_door

NAME = 'aesthetic'


@dataclasses.dataclass(frozen=True)
class AestheticSettings:
  """Settings of the aesthetic step.

  Attributes:
    weights: the CLIP model.
    head: safetensors file of the head.
    least: minimum score; drafts below it are rejected.
  """

  weights: ModelSource
  head: str
  least: float = float('-inf')

  def build(self) -> 'Aesthetic':
    """Load the model and return the step."""
    return Aesthetic(ClipScore(self.weights, self.head), self.least)


class ClipScore:
  """Aesthetic scores of images."""

  def __init__(self, weights: ModelSource, head: str):
    check_installed()
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

    self._batch = weights.batch
    self._processor = weights.load_part(AutoImageProcessor)
    self._model = weights.load(CLIPVisionModelWithProjection)
    self._weight, self._bias = read_head(head)
    width = self._model.config.projection_dim
    if len(self._weight) != width:
      raise InputError(
        f'{head}: takes embeddings of {len(self._weight)}, but {weights.model} gives {width}'
      )

  def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return scores float [n] of n images uint8 [H, W, 3]."""
    import torch

    scores = []
    for start in range(0, len(pictures), self._batch):
      inputs = self._processor(list(pictures[start : start + self._batch]), return_tensors='pt')
      pixels = inputs['pixel_values'].to(self._model.device, self._model.dtype)
      with torch.inference_mode():
        embeddings = self._model(pixel_values=pixels).image_embeds.float().cpu().numpy()
      embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
      scores.append(embeddings @ self._weight + self._bias)
    return np.concatenate(scores)


def read_head(path: str) -> tuple[np.ndarray, float]:
  """Collapse the linear layers of a head into one weight float64 [d] and one bias.

  Raises:
    InputError: if the file cannot be read, or its layers do not compose to one score.
  """
  import safetensors.numpy

  try:
    tensors = safetensors.numpy.load_file(path)
  except Exception as error:  # safetensors raises several exception types for corrupt files.
    raise InputError(f'{path}: no readable safetensors ({error})') from error
  layers = sorted(
    (int(found[1]), name) for name in tensors if (found := re.fullmatch(r'.*?(\d+)\.weight', name))
  )
  if not layers:
    raise InputError(f'{path}: holds no layers.N.weight; convert the head of the predictor')
  try:
    matrix, vector = np.eye(tensors[layers[0][1]].shape[1]), 0.0
    for _, name in layers:
      weight = tensors[name].astype(np.float64)
      bias = tensors[name.removesuffix('weight') + 'bias'].astype(np.float64)
      matrix, vector = weight @ matrix, weight @ np.broadcast_to(vector, weight.shape[1]) + bias
    (row,), (constant,) = matrix, np.atleast_1d(vector)
  except (ValueError, KeyError) as error:
    raise InputError(f'{path}: its layers do not chain to one score ({error})') from error
  return row, float(constant)


class Aesthetic:
  """Score drafts, and reject those below the minimum."""

  def __init__(self, score: ClipScore, least: float = float('-inf')):
    """Args:
    score: a `ClipScore`, or a callable with the same signature.
    least: minimum score.
    """
    self._score, self._least = score, least

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    chosen = [np.unique([0, len(d.video) // 2, len(d.video) - 1]) for d in drafts]
    pictures = [d.video[i] for d, some in zip(drafts, chosen, strict=True) for i in some]
    scores = self._score(pictures) if pictures else np.zeros(0)
    ends = np.cumsum([len(some) for some in chosen])
    means = [float(scores[e - len(s) : e].mean()) for e, s in zip(ends, chosen, strict=True)]

    def scored(draft: Draft, mean: float) -> Draft:
      if mean < self._least:
        raise Reject(f'aesthetic score below {self._least:g}', f'{mean:.2f}')
      return dataclasses.replace(draft, scores={**draft.scores, NAME: mean})

    return [attempt(scored, d, d, m) for d, m in zip(drafts, means, strict=True)]


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.aesthetic',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_flags(parser)
  parser.add_argument('--head', required=True, help='safetensors file of the head')
  parser.add_argument(
    '--image', required=True, action='append', help='image or video; repeat for several'
  )
  args = parser.parse_args(argv)
  with front_door():
    step = AestheticSettings(from_flags(args), args.head).build()
    for outcome in step([still(path) for path in args.image]):
      assert isinstance(outcome, Draft)
      print(f'{outcome.scores[NAME]:.3f}  {outcome.key}')


if __name__ == '__main__':
  main()
