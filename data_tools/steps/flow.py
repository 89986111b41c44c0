"""Optical flow between consecutive frames with RAFT, and the motion score of a clip.

    python -m data_tools.steps.flow --weights raft_large.safetensors --video dog.mp4 --out flow.mp4

The network is `raft_large` of torchvision, which only this module needs. Convert its weights to
safetensors once; the paper's metrics use C_T_SKHT_V2. The score `motion` is the mean length of the
flow over pixels and frame pairs, in pixels at the size of the clip. It is comparable only between
clips of the same size and frame rate. `render` is the flow representation of the paper's ablation
(table 4).
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.drafts import Draft, Reject, Rejected, attempt
from data_tools.steps.load_sample import still
from data_tools.steps.weights import ModelSource, check_installed
from ttm_jax.errors import InputError, front_door
from ttm_jax.media import video_io

NAME = 'motion'
# RAFT requires sides that are multiples of 8, and at least 128 for its correlation pyramid.
_MULTIPLE, _LEAST = 8, 128


@dataclasses.dataclass(frozen=True)
class FlowSettings:
  """Settings of the flow step.

  Attributes:
    weights: `model` is a safetensors file of raft_large; the dtype is not used, see `Raft`.
    least, most: range of the motion score, in pixels per frame; other drafts are rejected.
  """

  weights: ModelSource
  least: float = 0.0
  most: float = math.inf

  def build(self) -> 'Flow':
    """Load the model and return the step."""
    return Flow(Raft(self.weights), self.least, self.most)


class Raft:
  """Optical flow of videos by torchvision's `raft_large`, always computed in float32.

  torchvision builds RAFT's sampling grids in float32, so the network fails with weights of any
  other dtype. `weights.dtype` is therefore not used.
  """

  def __init__(self, weights: ModelSource):
    check_installed()
    try:
      from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:
      raise InputError(
        f'RAFT needs torchvision, which cannot be imported ({error}); install the build that'
        ' belongs to this torch, from the same index, or leave the step flow out'
      ) from error
    import safetensors.torch
    import torch

    self._model = raft_large(weights=None, progress=False)
    try:
      self._model.load_state_dict(safetensors.torch.load_file(weights.model))
    except Exception as error:  # safetensors and torch raise their own exception types.
      raise InputError(f'{weights.model}: no weights of raft_large ({error})') from error
    self._model.to(weights.torch_device, torch.float32).eval()
    self._batch = weights.batch

  def __call__(self, video: np.ndarray) -> np.ndarray:
    """Return the flow from each frame to the next.

    Args:
      video: uint8 [T, H, W, 3].

    Returns:
      float32 [T - 1, H, W, 2], (x, y) in pixels.
    """
    import torch

    device = next(self._model.parameters()).device
    height, width = video.shape[1:3]
    padded = np.pad(video, ((0, 0), *map(_padding, (height, width)), (0, 0)), mode='edge')
    flows = []
    for start in range(0, len(video) - 1, self._batch):
      part = torch.from_numpy(padded[start : start + self._batch + 1].transpose(0, 3, 1, 2).copy())
      frames = part.to(device, torch.float32) / 127.5 - 1
      with torch.inference_mode():
        flow = self._model(frames[:-1], frames[1:])[-1]
      flows.append(flow.cpu().numpy().transpose(0, 2, 3, 1)[:, :height, :width])
    return np.concatenate(flows) if flows else np.zeros((0, height, width, 2), np.float32)


def _padding(side: int) -> tuple[int, int]:
  wanted = max(_LEAST, -(-side // _MULTIPLE) * _MULTIPLE)
  return 0, wanted - side


class Flow:
  """Measure the motion of drafts, and reject those outside a range."""

  def __init__(self, flow: Raft, least: float = 0.0, most: float = math.inf):
    """Args:
    flow: a `Raft`, or a callable with the same signature.
    least, most: range of the motion score, in pixels per frame.
    """
    self._flow, self._least, self._most = flow, least, most

  def __call__(self, drafts: Sequence[Draft]) -> list[Draft | Rejected]:
    return [attempt(self._measured, draft, draft) for draft in drafts]

  def _measured(self, draft: Draft) -> Draft:
    motion = score(self._flow(draft.video))
    if not self._least <= motion <= self._most:
      side = 'below' if motion < self._least else 'above'
      limit = self._least if motion < self._least else self._most
      raise Reject(f'motion {side} {limit:g} pixels a frame', f'{motion:.2f}')
    return dataclasses.replace(draft, scores={**draft.scores, NAME: motion})


def score(flow: np.ndarray) -> float:
  """Return the mean length of a flow [T, H, W, 2], in pixels; 0 if T is 0."""
  return float(np.linalg.norm(flow, axis=-1).mean()) if flow.size else 0.0


def render(flow: np.ndarray, longest: float | None = None) -> np.ndarray:
  """Render a flow as RGB: direction as hue, length as saturation; zero flow is white.

  Args:
    flow: float [T, H, W, 2], in pixels.
    longest: length with full saturation, in pixels; by default the maximum of `flow`.

  Returns:
    uint8 [T, H, W, 3].
  """
  length = np.linalg.norm(flow, axis=-1)
  limit = longest or float(length.max(initial=0)) or 1.0
  strength = np.minimum(length / limit, 1)[..., None]
  hue = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
  # Hue to RGB as in HSV: red at 0, green at 1/3, blue at 2/3.
  offset = (hue[..., None] * 6 + np.array([0, 4, 2])) % 6
  pure = np.clip(np.abs(offset - 3) - 1, 0, 1)
  return np.rint(255 * (1 - strength + strength * pure)).astype(np.uint8)


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.steps.flow',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--weights', required=True, help='safetensors file of raft_large')
  add('--video', required=True)
  add('--out', required=True, help='output video of the rendered flow, .mp4')
  add('--device', default='auto')
  add('--batch', type=int, default=8, help='batch size in frame pairs; default 8')
  args = parser.parse_args(argv)
  with front_door():
    draft = still(args.video)
    flow = Raft(ModelSource(args.weights, args.device, 'float32', args.batch))(draft.video)
    if not len(flow):
      raise InputError(f'{args.video}: one frame has no flow; give a video')
    video_io.write_video(Path(args.out), render(flow), draft.fps)
    print(f'{args.out}: {score(flow):.3f} pixels a frame')


if __name__ == '__main__':
  main()
