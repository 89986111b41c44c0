"""Motion score of a clip, from the optical flow between consecutive frames.

    python -m data_tools.steps.flow --weights raft_large.safetensors --video dog.mp4 --out flow.mp4

For the network see `ttm_jax.pytorch.annotation.raft`. The score `motion` is the mean length of the
flow over pixels and frame pairs, in pixels at the size of the clip. It is comparable only between
clips of the same size and frame rate.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.drafts import Draft, Rejected, attempt
from data_tools.steps import command
from ttm_jax.arguments import command_parser
from ttm_jax.errors import InputError, front_door
from ttm_jax.media import video_io
from ttm_jax.optical_flow import render
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.raft import Raft
from ttm_jax.pytorch.annotation.rejection import Reject

NAME = 'motion'


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
      raise Reject(f'motion {side} {limit:g} pixels per frame', f'{motion:.2f}')
    return dataclasses.replace(draft, scores={**draft.scores, NAME: motion})


def score(flow: np.ndarray) -> float:
  """Return the mean length of a flow [T, H, W, 2], in pixels; 0 if T is 0."""
  return float(np.linalg.norm(flow, axis=-1).mean()) if flow.size else 0.0


def main(argv: list[str] | None = None) -> None:
  parser = command_parser('data_tools.steps.flow', __doc__)
  add = parser.add_argument
  add('--weights', required=True, help='safetensors file of raft_large')
  add('--video', required=True, help='video to measure')
  add('--out', required=True, help='output video of the rendered flow, .mp4')
  add('--device', default='auto', help='PyTorch device; default a GPU if available')
  add('--batch', type=int, default=8, help='batch size in frame pairs; default 8')
  args = parser.parse_args(argv)
  with front_door():
    draft = command.still(args.video)
    flow = Raft(ModelSource(args.weights, args.device, 'float32', args.batch))(draft.video)
    if not len(flow):
      raise InputError(f'{args.video}: has a single frame, which has no flow; give a video')
    video_io.write_video(Path(args.out), render(flow), draft.fps)
    print(f'{args.out}: {score(flow):.3f} pixels per frame')


if __name__ == '__main__':
  main()
