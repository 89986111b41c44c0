"""An image with known objects, and models that find them, in place of the pretrained ones."""

import numpy as np

from ttm_jax.pytorch.annotation import describe


def photo():
  """Return an image of two dogs and a ball, and their masks: left dog, right dog, ball."""
  ids = np.zeros((20, 30), np.uint8)
  ids[4:12, 2:10], ids[6:10, 20:24], ids[14:18, 12:16] = 1, 2, 3
  rng = np.random.default_rng(0)
  return rng.integers(0, 255, (20, 30, 3), np.uint8), ids


class Planted:
  """Models with ground-truth outputs for `photo` in place of the real ones."""

  def __init__(self, monkeypatch, ids):
    self.ids, self.asked = ids, []
    self.objects = '[[right dog: a white dog] [ball: a red ball] [left dog: a brown dog]]'
    self.scores = {'dog': [0.5, 0.9], 'ball': [0.6]}
    boxes = {1: [2, 4, 10, 12], 2: [20, 6, 24, 10], 3: [12, 14, 16, 18]}
    self.boxes = {'dog': [boxes[1], boxes[2]], 'ball': [boxes[3]]}
    monkeypatch.setattr(describe, 'LanguageModel', self.language_model)
    monkeypatch.setattr(describe, 'GroundingDino', self.detector)
    monkeypatch.setattr(describe, 'tracker', self.tracker)

  def language_model(self, weights):
    assert weights.model == 'LLM'

    def answer(texts):
      self.asked += texts
      return [
        f'Answer: {self.objects}'
        if 'Answer: [[' in text
        else 'Motion-specific prompt: "The dogs run."'
        for text in texts
      ]

    return answer

  def detector(self, weights, threshold):
    assert weights.model == 'DINO' and weights.device == 'cpu'

    def detect(images, nouns):
      found = [(self.boxes.get(n, []), self.scores.get(n, [])) for n in nouns]
      return [(np.array(b, float).reshape(-1, 4), np.array(s)) for b, s in found]

    return detect

  def tracker(self, weights, backend):
    assert weights.model == 'SAM' and backend == 'auto'

    def track(video, boxes):
      assert video.shape == (1, *self.ids.shape, 3)
      labels = [self.ids[int(y0 + y1) // 2, int(x0 + x1) // 2] for x0, y0, x1, y1 in boxes]
      return np.stack([np.where(self.ids == label, 4.0, -4.0) for label in labels])[None]

    return track
