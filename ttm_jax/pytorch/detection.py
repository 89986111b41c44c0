"""Object boxes from text queries, by Grounding DINO (transformers)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ttm_jax.errors import InputError

from .pretrained import check_texts


class Found(NamedTuple):
  """The detections of one image.

  Attributes:
    boxes: float32 [n, 4], x0, y0, x1, y1 in pixels, clipped to the image.
    scores: float32 [n], confidence in 0..1.
    labels: n phrases, the words of the text that match each box.
  """

  boxes: np.ndarray
  scores: np.ndarray
  labels: list[str]


@torch.inference_mode()
def detect(
  model: Any, processor: Any, pictures: Sequence[np.ndarray], texts: Sequence[str], threshold: float
) -> list[Found]:
  """Detect the objects of text i in image i, in one batch.

  Args:
    model: a `GroundingDinoForObjectDetection`, in evaluation mode.
    processor: its `GroundingDinoProcessor`.
    pictures: images, uint8 [H, W, 3] each.
    texts: one text per image: noun phrases or sentences.
    threshold: minimum score of a box, 0 to 1.

  Returns:
    The detections of each image, possibly none.

  Raises:
    InputError: if a text has no letters or digits, exceeds the model's maximum of tokens, or is not
      valid Unicode.
  """
  check_texts(texts)
  if wordless := [text for text in texts if not any(c.isalnum() for c in text)]:
    raise InputError(
      f'{wordless[0][:80]!r} names nothing that can be found; say what the object is, in words'
    )
  inputs = processor(
    images=list(pictures),
    # Grounding DINO separates labels by dots.
    text=[f'{text.lower().replace(".", " ").strip()}.' for text in texts],
    return_tensors='pt',
    padding=True,
  ).to(model.device)
  most = model.config.max_text_len
  if (tokens := inputs.input_ids.shape[1]) > most:
    longest = max(texts, key=len)
    raise InputError(
      f'"{longest[:80]}..." has {tokens} tokens, and the detector reads at most {most}; name the'
      ' objects in fewer words'
    )
  inputs['pixel_values'] = inputs['pixel_values'].to(model.dtype)
  outputs = model(**inputs)
  # Float32 before scaling to pixels: half precision has steps of up to 8 pixels.
  outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
  sizes = [picture.shape[:2] for picture in pictures]
  results = processor.post_process_grounded_object_detection(
    outputs, inputs.input_ids, threshold=threshold, target_sizes=sizes
  )
  found = []
  for result, (height, width) in zip(results, sizes, strict=True):
    limits = np.array([width, height, width, height], np.float32)
    boxes = result['boxes'].float().cpu().numpy().reshape(-1, 4).clip(0, limits)
    scores = result['scores'].float().cpu().numpy()
    # Without any box, transformers returns one empty label.
    found.append(Found(boxes, scores, result['text_labels'][: len(boxes)]))
  return found
