"""SAM 2 through `Sam2VideoModel` of transformers.

Pictures are prepared here, since the library's own preparation needs torchvision: resized to the
square the model takes, and normalised as ImageNet is.
"""

import numpy as np
from PIL import Image

from data_tools.steps.weights import Weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The labels that SAM gives to the two corners of a box.
_CORNERS = [2, 3]


class TransformersTracker:
  """See `segment.Tracker`."""

  def __init__(self, weights: Weights):
    from transformers import Sam2VideoModel

    self._model = weights.load(Sam2VideoModel)

  def __call__(self, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    import torch
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    side = self._model.config.image_size
    height, width = video.shape[1:3]
    device, dtype = self._model.device, self._model.dtype
    session = Sam2VideoInferenceSession(
      video=torch.from_numpy(prepared(video, side)),
      video_height=height,
      video_width=width,
      inference_device=device,
      inference_state_device=device,
      dtype=dtype,
    )
    scale = side / np.array([width, height], np.float32)
    for index, box in enumerate(boxes):
      corners = torch.tensor(box.reshape(1, 1, 2, 2) * scale, dtype=dtype)
      labels = torch.tensor(_CORNERS, dtype=torch.int32).reshape(1, 1, 2)
      inputs = {'point_coords': corners, 'point_labels': labels}
      session.add_point_inputs(session.obj_id_to_idx(index + 1), 0, inputs)
    session.obj_with_new_inputs = list(range(1, len(boxes) + 1))
    maps = []
    with torch.inference_mode():
      for output in self._model.propagate_in_video_iterator(session, start_frame_idx=0):
        logits = torch.nn.functional.interpolate(
          output.pred_masks.float(), (height, width), mode='bilinear', align_corners=False
        )
        maps.append(logits[:, 0].cpu().numpy())
    return np.stack(maps)


def prepared(video: np.ndarray, side: int) -> np.ndarray:
  """uint8 [T, H, W, 3] to float32 [T, 3, side, side] as the model takes it."""
  size = (side, side)
  frames = np.stack(
    [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in video]
  )
  normal = (frames.astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
  return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)
