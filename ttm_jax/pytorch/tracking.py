"""Object masks through a clip from boxes or masks in frame 0, by SAM 2 (transformers).

Images are preprocessed here, since the processor of transformers needs torchvision. They are
resized to the square input of the model, and normalized with the ImageNet mean and standard
deviation.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Point labels of SAM for the top left and bottom right corners of a box.
_CORNERS = [2, 3]


@torch.inference_mode()
def track(model: Any, video: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Return the mask logits of each object in every frame.

  Args:
    model: a `Sam2VideoModel`, in evaluation mode.
    video: uint8 [T, H, W, 3]; an image is a clip of one frame.
    boxes: float [n, 4], x0, y0, x1, y1 in pixels of frame 0.

  Returns:
    Logits float32 [T, n, H, W], positive inside the object.
  """
  session = _session(model, video)
  height, width = video.shape[1:3]
  scale = model.config.image_size / np.array([width, height], np.float32)
  for number, box in enumerate(boxes, 1):
    # Float32 whatever the dtype of the model: beyond 512 pixels bfloat16 has steps of 4.
    corners = torch.tensor(box.reshape(1, 1, 2, 2) * scale, dtype=torch.float32)
    labels = torch.tensor(_CORNERS, dtype=torch.int32).reshape(1, 1, 2)
    inputs = {'point_coords': corners, 'point_labels': labels}
    session.add_point_inputs(session.obj_id_to_idx(number), 0, inputs)
  return _propagated(model, session, len(boxes), (height, width))


@torch.inference_mode()
def segment_clicks(
  model: Any, picture: np.ndarray, points: np.ndarray, inside: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
  """Return the mask logits of an object of an image, float32 [H, W], positive inside of it.

  Args:
    model: as in `track`.
    picture: uint8 [H, W, 3].
    points: clicked points (x, y) in pixels, float [n, 2].
    inside: whether each point is on the object, bool [n].
    box: box around the object, x0, y0, x1, y1 in pixels, float [4], or None. There must be a point
      or a box.
  """
  session = _session(model, picture[None])
  height, width = picture.shape[:2]
  scale = model.config.image_size / np.array([width, height], np.float32)
  corners = np.zeros((0, 2)) if box is None else np.reshape(box, (2, 2))
  places = np.concatenate([corners, points]) * scale
  labels = [*_CORNERS[: len(corners)], *(int(each) for each in inside)]
  inputs = {
    'point_coords': torch.tensor(places, dtype=torch.float32)[None, None],
    'point_labels': torch.tensor(labels, dtype=torch.int32)[None, None],
  }
  session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
  return _propagated(model, session, 1, (height, width))[0, 0]


@torch.inference_mode()
def track_masks(model: Any, video: np.ndarray, masks: np.ndarray) -> np.ndarray:
  """Return the mask logits of objects whose masks in frame 0 are known.

  Args:
    model, video: as in `track`.
    masks: bool [n, H, W], the objects in frame 0.

  Returns:
    Logits float32 [T, n, H, W], positive inside the object.
  """
  session = _session(model, video)
  size = (model.config.image_size,) * 2
  for number, mask in enumerate(masks, 1):
    given = torch.from_numpy(mask)[None, None].to(model.device, torch.float32)
    given = interpolate(given, size, mode='bilinear', antialias=True)
    session.add_mask_inputs(session.obj_id_to_idx(number), 0, (given >= 0.5).float())
  return _propagated(model, session, len(masks), video.shape[1:3])


def _session(model: Any, video: np.ndarray) -> Any:
  from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

  height, width = video.shape[1:3]
  return Sam2VideoInferenceSession(
    video=torch.from_numpy(prepared(video, model.config.image_size)),
    video_height=height,
    video_width=width,
    inference_device=model.device,
    inference_state_device=model.device,
    dtype=model.dtype,
  )


def _propagated(model: Any, session: Any, objects: int, size: tuple[int, ...]) -> np.ndarray:
  session.obj_with_new_inputs = list(range(1, objects + 1))
  maps = []
  for output in model.propagate_in_video_iterator(session, start_frame_idx=0):
    logits = interpolate(output.pred_masks.float(), size, mode='bilinear')
    maps.append(logits[:, 0].cpu().numpy())
  return np.stack(maps)


def prepared(video: np.ndarray, side: int) -> np.ndarray:
  """Resize and normalize a video uint8 [T, H, W, 3] to float32 [T, 3, side, side].

  Args:
    video: the video.
    side: height and width of the model's input in pixels.
  """
  size = (side, side)
  frames = np.stack(
    [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in video]
  )
  normal = (frames.astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
  return np.ascontiguousarray(normal.transpose(0, 3, 1, 2), np.float32)
