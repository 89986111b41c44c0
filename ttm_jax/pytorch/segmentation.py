"""Masks for a photo where none are given: Grounding DINO finds what is named, SAM 2 outlines it.

    pipe.segmenter = Segmenter('IDEA-Research/grounding-dino-base', 'facebook/sam2.1-hiera-large')
    video = pipe(image, 'A brown dog runs to the left on a beach.').frames

Both are models of transformers, by hub id or folder. What is to be outlined is named by the
sentence itself, of which Grounding DINO marks the words that it found, or by `names`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from .errors import InputError
from .trajectory import MAX_OBJECTS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CORNERS = (2, 3)  # The labels that SAM gives to the two corners of a box.


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

    self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    self._processor = _loaded(AutoProcessor, detector)
    kind = AutoModelForZeroShotObjectDetection
    self._detector = _loaded(kind, detector, use_safetensors=True).to(self.device).eval()
    self._sam = _loaded(Sam2VideoModel, sam, use_safetensors=True).to(self.device).eval()
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
      names: of the objects; those that the sentence names by default.

    Returns:
      uint8 [H, W], objects from 1 on by falling score; and prompts by number.

    Raises:
      InputError: if nothing of it is found.
    """
    boxes, labels = self.detect(picture, sentence, names)
    if not len(boxes):
      raise InputError(
        f'nothing of "{sentence}" was found in the picture: give a segmentation, name the objects'
        ' otherwise, or lower the threshold'
      )
    ids = label_map(self.outline(picture, boxes))
    present = [int(i) for i in np.unique(ids) if i]
    if not present:
      raise InputError('SAM 2 outlined nothing in the boxes that were found: give a segmentation')
    return ids, {i: prompt_of(labels[i - 1], sentence) for i in present}

  @torch.inference_mode()
  def detect(
    self, picture: np.ndarray, sentence: str, names: Sequence[str] = ()
  ) -> tuple[np.ndarray, list[str]]:
    """Boxes float32 [n, 4] (x0, y0, x1, y1 in pixels) and the words that name each."""
    height, width = picture.shape[:2]
    found: list[tuple[float, np.ndarray, str]] = []
    # A dot ends a label: names are asked for one by one, a sentence as a whole.
    for text in names or [sentence]:
      asked = text.lower().replace('.', ' ').strip() + '.'
      inputs = self._processor(images=[picture], text=[asked], return_tensors='pt').to(self.device)
      outputs = self._detector(**inputs)
      (result,) = self._processor.post_process_grounded_object_detection(
        outputs, inputs.input_ids, threshold=self.threshold, target_sizes=[(height, width)]
      )
      boxes = result['boxes'].float().cpu().numpy().reshape(-1, 4)
      if not len(boxes):
        continue  # Of no boxes, transformers gives one empty label.
      words = [text] * len(boxes) if names else result['text_labels']
      boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
      scores = result['scores'].float().cpu().tolist()
      found += [item for item in zip(scores, boxes, words, strict=True) if item[2].strip()]
    found.sort(key=lambda item: -item[0])
    kept: list[tuple[np.ndarray, str]] = []
    for _, box, word in found:
      if len(kept) < self.max_objects and all(iou(box, b) <= self.overlap for b, _ in kept):
        kept.append((box, word))
    return np.array([box for box, _ in kept]).reshape(-1, 4), [word for _, word in kept]

  @torch.inference_mode()
  def outline(self, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Logits float32 [n, H, W], above 0 inside the object of each box."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    side = self._sam.config.image_size
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    normal = (np.asarray(small, np.float32) / 255 - MEAN) / STD
    session = Sam2VideoInferenceSession(
      video=torch.from_numpy(normal.transpose(2, 0, 1)[None].astype(np.float32)),
      video_height=height,
      video_width=width,
      inference_device=self.device,
      inference_state_device=self.device,
      dtype=self._sam.dtype,
    )
    scale = side / np.array([width, height], np.float32)
    for number, box in enumerate(boxes, 1):
      corners = torch.tensor(box.reshape(1, 1, 2, 2) * scale, dtype=self._sam.dtype)
      labels = torch.tensor(_CORNERS, dtype=torch.int32).reshape(1, 1, 2)
      inputs = {'point_coords': corners, 'point_labels': labels}
      session.add_point_inputs(session.obj_id_to_idx(number), 0, inputs)
    session.obj_with_new_inputs = list(range(1, len(boxes) + 1))
    output = next(iter(self._sam.propagate_in_video_iterator(session, start_frame_idx=0)))
    masks = interpolate(output.pred_masks.float(), (height, width), mode='bilinear')
    return masks[:, 0].cpu().numpy()


def label_map(logits: np.ndarray) -> np.ndarray:
  """Who owns each pixel: the object of the greatest logit above 0, [n, H, W] to uint8 [H, W].

  Equal logits go to the smaller object.
  """
  result = np.zeros(logits.shape[1:], np.uint8)
  best = np.zeros(logits.shape[1:], logits.dtype)
  for i in np.argsort((logits > 0).sum((1, 2)), kind='stable'):
    np.copyto(result, np.uint8(i + 1), where=logits[i] > best)
    np.maximum(best, logits[i], out=best)
  return result


def iou(a: np.ndarray, b: np.ndarray) -> float:
  """Intersection over union of two boxes [4]."""
  low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
  both = np.prod(np.maximum(high - low, 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
  return float(both / union) if union else 0.0


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


def _loaded(kind: Any, source: str, **options: Any) -> Any:
  try:
    return kind.from_pretrained(source, **options)
  except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise InputError(
      f'{source} cannot be loaded as {kind.__name__} ({reason}): give a hub id, or a folder with'
      ' config.json and *.safetensors'
    ) from error
