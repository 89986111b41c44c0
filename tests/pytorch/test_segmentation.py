"""Objects of an image, detected by the `Segmenter` of the exported pipeline."""

import numpy as np
import pytest

from tests.helpers import exported, tiny_models
from ttm_jax.errors import InputError

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch.detection import Found  # noqa: E402
from ttm_jax.pytorch.segmentation import Segmenter, objects, prompt_of  # noqa: E402

torch.set_num_threads(1)


def test_objects_are_found_where_no_masks_are_given(folders, tmp_path):
  pipe = exported.pipe(folders['dit'][1])
  detector = tiny_models.grounding_dino(tmp_path / 'dino')
  sam = tiny_models.sam2_video(tmp_path / 'sam')
  segmenter = Segmenter(str(detector), str(sam), threshold=0.0, max_objects=3)
  picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
  mask, prompts = segmenter(picture, 'A dog runs, and a ball rolls.', ['dog', 'ball'])
  assert mask.shape == (40, 48) and mask.dtype == np.uint8 and mask.any()
  assert set(prompts) == set(np.unique(mask)) - {0}
  assert set(prompts.values()) <= {'A dog runs', 'a ball rolls'}
  pipe.segmenter = segmenter
  output = pipe(picture, 'A dog runs.', num_inference_steps=2, output_type='np')
  assert output.trajectory[0, 0].any()
  nothing = Segmenter(str(detector), str(sam), threshold=1.0)
  with pytest.raises(InputError, match=r'nothing of "A dog." was found'):
    nothing(picture, 'A dog.')
  with pytest.raises(InputError, match=r'"left dog" was not found .* name it otherwise'):
    nothing(picture, 'A dog.', ['left dog', 'ball'])
  with pytest.raises(InputError, match='cannot be loaded as AutoProcessor'):
    Segmenter(str(tmp_path), str(sam))


def found(*items):
  """Return detections from label, x0 and score, with boxes of 10 pixels."""
  boxes = np.array([[x, 0, x + 10, 10] for _, x, _ in items], np.float32).reshape(-1, 4)
  return Found(boxes, np.array([s for *_, s in items]), [label for label, *_ in items])


@pytest.mark.parametrize(
  'items, wanted',
  [
    # Several objects without a position word all count.
    ([('dog', 50, 0.5), ('dog', 0, 0.9)], [('dog', 0), ('dog', 50)]),
    # The position word decides, not the detector's label "left".
    (
      [('left dog', 50, 0.9), ('right dog', 0, 0.8), ('dog', 70, 0.3)],
      [('dog', 50), ('left dog', 0), ('right dog', 70)],
    ),
    # The label of the weaker of two equal boxes counts, too.
    (
      [('the left dog', 0, 0.9), ('right dog', 0, 0.8), ('right dog', 50, 0.7)],
      [('left dog', 0), ('right dog', 50)],
    ),
    ([('ball', 30, 0.4), ('left dog', 50, 0.9), ('', 80, 0.9)], [('left dog', 50), ('ball', 30)]),
    # Numbered by falling score, whatever the labels.
    (
      [('dog', 0, 0.9), ('ball', 30, 0.6), ('dog', 60, 0.3)],
      [('dog', 0), ('ball', 30), ('dog', 60)],
    ),
    ([], []),
  ],
)
def test_position_words_choose_among_equals(items, wanted):
  assert [(name, box[0]) for name, box in objects(found(*items))] == wanted


def test_what_is_said_of_an_object():
  said = 'A dog runs left and the red ball rolls, while a cat sleeps.'
  assert prompt_of('ball', said) == 'the red ball rolls'
  assert prompt_of('cat', said) == 'a cat sleeps'
  assert prompt_of('horse', said) == said
