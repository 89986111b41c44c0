"""Segmentation of an image from text: Grounding DINO detects objects, SAM 2 segments them.

    pipe.segmenter = Segmenter('IDEA-Research/grounding-dino-base', 'facebook/sam2.1-hiera-large')
    video = pipe(image, 'A brown dog runs to the left on a beach.').frames

Both are transformers models, given by hub id or folder. The objects are those that the prompt
mentions and Grounding DINO detects, or those listed in `names`. Position words such as "left"
select among detections of the same noun, see `position_words`.
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
  """(image, prompt) -> (label map, object prompts), for `TTMPipeline.segmenter`."""

  def __init__(
    self,
    detector: str,
    sam: str,
    threshold: float = 0.25,
    overlap: float = 0.7,
    max_objects: int = MAX_OBJECTS,
    device: str | torch.device | None = None,
  ):
    """Load both models.

    Args:
      detector: Grounding DINO, hub id or folder.
      sam: SAM 2, hub id or folder.
      threshold: minimum score of a box, 0 to 1.
      overlap: maximum IoU of two boxes, 0 to 1; above it the one with the lower score is dropped.
      max_objects: maximum number of objects; those with the highest scores are kept.
      device: of both models; by default 'cuda' if available, else 'cpu'.

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
    """Segment the objects of an image and find their prompts.

    Args:
      picture: image, uint8 [H, W, 3].
      sentence: prompt that says what moves and how. The prompt of each object is the part of it
        that names the object, or all of it if no part does.
      names: the objects to segment ("left dog"); by default those that the prompt mentions.

    Returns:
      (label map uint8 [H, W], object prompts by number). Objects are numbered in the order of
      `names`, or by falling score if they come from the prompt. An object for which SAM 2 returns
      an empty mask keeps its number but has no prompt.

    Raises:
      InputError: if no object of the prompt or one of the names is not detected, or if SAM 2
        returns only empty masks.
    """
    found = self.named(picture, names) if names else self.told(picture, sentence)
    ids = from_logits(track(self._sam, picture[None], np.stack([box for _, box in found])))[0]
    present = [int(i) for i in np.unique(ids) if i]
    if not present:
      raise InputError('SAM 2 outlined nothing in the boxes that were found: give a segmentation')
    return ids, {i: prompt_of(found[i - 1][0], sentence) for i in present}

  def named(self, picture: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Return (name, box) of each name in an image uint8 [H, W, 3].

    Boxes are float32 [4]: x0, y0, x1, y1 in pixels.

    Raises:
      InputError: if a name is not detected.
    """
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
    """Return (name, box) of each object that a prompt mentions, in an image uint8 [H, W, 3].

    If a noun has position words ("the left dog"), each of its names gets one box. Otherwise each
    box of the noun is an object. Boxes are float32 [4]: x0, y0, x1, y1 in pixels, by falling score.

    Raises:
      InputError: if no object is detected.
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
  """Return (name, box) of each object among the detections of one prompt, see `Segmenter.told`.

  Args:
    found: the detections.
    overlap: maximum IoU of two boxes, 0 to 1; above it the one with the lower score is dropped.

  Returns:
    Names and boxes float32 [4] (x0, y0, x1, y1 in pixels), by falling score.
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
  """Return the first part of a sentence that has all words of an object's name.

  Commas, semicolons, periods, 'while' and 'and' separate parts. If no part has all words, return
  the whole sentence.
  """
  words = set(name.lower().split())
  marked = sentence.strip().rstrip('.')
  for mark in (';', '.', ' while ', ' and '):
    marked = marked.replace(mark, ',')
  for part in marked.split(','):
    if words <= set(part.lower().split()):
      return part.strip()
  return sentence.strip()
