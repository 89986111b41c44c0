"""Masks for a photo where none are given: Grounding DINO finds what is named, SAM 2 outlines it.

    pipe.segmenter = Segmenter('IDEA-Research/grounding-dino-base', 'facebook/sam2.1-hiera-large')
    video = pipe(image, 'A brown dog runs to the left on a beach.').frames

Both are models of transformers, by hub id or folder. What is to be outlined is named by the
sentence itself, of which Grounding DINO marks the words that it found, or by `names`. Words such as
"left" choose among equals, see `position_words`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ttm_jax.errors import InputError
from ttm_jax.inference.position_words import assign, nouns, split_name, suppress
from ttm_jax.trajectory import MAX_OBJECTS, from_logits

from .detection import Found, detect
from .pretrained import load_model, load_part
from .tracking import track


class Segmenter:
  """(picture, sentence) -> label map and prompts: what `TTMPipeline.segmenter` is to be."""

  def __init__(
    self,
    detector: str,
    sam: str,
    threshold: float = 0.25,
    overlap: float = 0.7,
    max_objects: int = MAX_OBJECTS,
    device: str | torch.device | None = None,
  ):
    """Loads both models.

    Args:
      detector, sam: Grounding DINO and SAM 2, hub id or folder.
      threshold: least score of a box.
      overlap: above this IoU the weaker of two boxes is left out.
      max_objects: that are kept, those of the best scores.
      device: a GPU where there is one by default.

    Raises:
      InputError: if a model cannot be loaded.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, Sam2VideoModel

    device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    self._processor = load_part(AutoProcessor, detector)
    self._detector = load_model(AutoModelForZeroShotObjectDetection, detector).to(device)
    self._sam = load_model(Sam2VideoModel, sam).to(device)
    self.threshold, self.overlap = threshold, overlap
    self.max_objects = max_objects

  def __call__(
    self, picture: np.ndarray, sentence: str, names: Sequence[str] = ()
  ) -> tuple[np.ndarray, dict[int, str]]:
    """What is in a picture, and what is said of it.

    Args:
      picture: uint8 [H, W, 3].
      sentence: what moves and how. Each object's prompt is the part of it that names the object,
        the whole where no part does.
      names: of the objects ("left dog"); those that the sentence names by default.

    Returns:
      uint8 [H, W], objects numbered as they are named or, in a sentence, by falling score; and
      prompts by number. Objects of which SAM 2 outlines nothing have none.

    Raises:
      InputError: if nothing of the sentence, or one of the names, is not found.
    """
    found = self.named(picture, names) if names else self.told(picture, sentence)
    ids = from_logits(track(self._sam, picture[None], np.stack([box for _, box in found])))[0]
    present = [int(i) for i in np.unique(ids) if i]
    if not present:
      raise InputError('SAM 2 outlined nothing in the boxes that were found: give a segmentation')
    return ids, {i: prompt_of(found[i - 1][0], sentence) for i in present}

  def named(self, picture: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """The box float32 [4] (x0, y0, x1, y1 in pixels) of each name."""
    asked = nouns(names)
    found = dict(zip(asked, self._detect([picture] * len(asked), asked), strict=True))
    boxes = assign(dict(enumerate(names)), {noun: f[:2] for noun, f in found.items()})
    if lost := [name for i, name in enumerate(names) if i not in boxes]:
      raise InputError(
        f'"{lost[0]}" was not found in the picture: name it otherwise, leave it out, lower the'
        ' threshold, or give a segmentation'
      )
    return [(names[i], box) for i, box in boxes.items()]

  def told(self, picture: np.ndarray, sentence: str) -> list[tuple[str, np.ndarray]]:
    """The names that a sentence has for what is found of it, and the box of each.

    Of a noun that is told apart by position words ("the left dog"), each name gets one box; of
    others, each box is an object.
    """
    (found,) = self._detect([picture], [sentence])
    chosen = objects(found, self.overlap)[: self.max_objects]
    if not chosen:
      raise InputError(
        f'nothing of "{sentence}" was found in the picture: give a segmentation, name the objects'
        ' otherwise, or lower the threshold'
      )
    return chosen

  def _detect(self, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> list[Found]:
    return detect(self._detector, self._processor, pictures, texts, self.threshold)


def objects(found: Found, overlap: float = 0.7) -> list[tuple[str, np.ndarray]]:
  """Name and box of each object among what is found of one sentence, see `Segmenter.told`.

  By falling score of the boxes.
  """
  parts = [split_name(label) for label in found.labels]
  kept = [i for i in suppress(found.boxes, found.scores, overlap) if parts[i][1]]
  chosen: list[tuple[str, np.ndarray]] = []
  for noun in dict.fromkeys(parts[i][1] for i in kept):
    mine = [i for i in kept if parts[i][1] == noun]
    words = dict.fromkeys(word for word, other in parts if other == noun)
    if any(words):
      names = dict(enumerate(f'{word} {noun}'.strip() for word in words))
      boxes = assign(names, {noun: (found.boxes[mine], found.scores[mine])})
      chosen += [(names[i], box) for i, box in boxes.items()]
    else:
      chosen += [(noun, found.boxes[i]) for i in mine]
  scores = {tuple(found.boxes[i]): found.scores[i] for i in kept}
  return sorted(chosen, key=lambda item: -scores[tuple(item[1])])


def prompt_of(name: str, sentence: str) -> str:
  """The part of a sentence that speaks of an object: what lies between commas, 'and' and the like.

  The whole sentence where no part has all words of the name.
  """
  words = set(name.lower().split())
  marked = sentence.strip().rstrip('.')
  for mark in (';', '.', ' while ', ' and '):
    marked = marked.replace(mark, ',')
  for part in marked.split(','):
    if words <= set(part.lower().split()):
      return part.strip()
  return sentence.strip()
