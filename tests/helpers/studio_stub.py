"""A backend of the studio without networks, and models that find objects without weights."""

import dataclasses
import threading

import numpy as np

from ttm_jax.errors import InputError
from ttm_jax.studio.backends import Found, Limits

LIMITS = Limits(
  frames=12, height=32, width=48, fps=8.0, max_objects=4, motion_steps=4, video_steps=8
)


class StubBackend:
  """A `backends.Backend`: proposals move to the right, videos show where objects are.

  Attributes:
    error: Raised half way through the next proposal or video, if not None.
    gate: Each step waits for it; set unless a test clears it.
    calls: the `Sampling` of each call, with the number of steps filled in.
  """

  name = 'stub'
  command = ('python', '-m', 'ttm_jax.generate', '--stage1', 'runs/one', '--stage2', 'runs/two')

  def __init__(self, limits=LIMITS):
    self.limits = limits
    self.error = None
    self.gate = threading.Event()
    self.gate.set()
    self.calls = []

  def propose(self, request, sampling, progress):
    self._work(sampling, self.limits.motion_steps, progress)
    way = sampling.seed + 1
    return np.stack([np.roll(request.mask, i * way, 1) for i in range(self.limits.frames)])

  def render(self, request, ids, sampling, progress):
    self._work(sampling, self.limits.video_steps, progress)
    video = np.repeat(request.picture[None], self.limits.frames, 0)
    return np.where(ids[..., None] > 0, np.uint8(255 - sampling.seed % 128), video)

  def _work(self, sampling, usual, progress):
    steps = sampling.steps or usual
    self.calls.append(dataclasses.replace(sampling, steps=steps))
    for done in range(steps + 1):
      if self.error is not None and done == steps // 2:
        error, self.error = self.error, None
        raise error
      self.gate.wait(30)
      progress(done, steps)


class StubFinder:
  """A `backends.Finder`: objects are the quarters of the picture, or squares around clicks."""

  by_text = by_click = True

  def named(self, picture, caption, motion, max_objects):
    if 'nothing' in caption:
      raise InputError('nothing was found in the picture')
    mask = np.zeros(picture.shape[:2], np.uint8)
    height, width = mask.shape
    mask[: height // 4, : width // 4], mask[-height // 4 :, -width // 4 :] = 1, 2
    return Found(mask, {1: 'corner', 2: 'other corner'}, {1: 'it moves'}, 'The corner moves.')

  def clicked(self, picture, points, inside, box):
    mask = np.zeros(picture.shape[:2], bool)
    if box is not None:
      x0, y0, x1, y1 = np.round(box).astype(int)
      mask[y0:y1, x0:x1] = True
    for (x, y), on in zip(points.astype(int), inside, strict=True):
      mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = on
    return mask
