"""Objects of a photo, found by the helper of the exported pipeline."""

import numpy as np
import pytest

from tests import exported, tiny_models
from ttm_jax.errors import InputError

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

from ttm_jax.pytorch.segmentation import Segmenter, iou, label_map, prompt_of  # noqa: E402

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
  with pytest.raises(InputError, match='cannot be loaded as AutoProcessor'):
    Segmenter(str(tmp_path), str(sam))


def test_who_owns_a_pixel_and_what_is_said_of_it():
  logits = np.full((2, 2, 3), -1.0)
  logits[0] = 2.0
  logits[1, 0, :2] = 2.0, 3.0
  np.testing.assert_array_equal(label_map(logits), [[2, 2, 1], [1, 1, 1]])
  assert iou(np.array([0, 0, 2, 2]), np.array([1, 0, 3, 2])) == pytest.approx(1 / 3)
  said = 'A dog runs left and the red ball rolls, while a cat sleeps.'
  assert prompt_of('ball', said) == 'the red ball rolls'
  assert prompt_of('cat', said) == 'a cat sleeps'
  assert prompt_of('horse', said) == said
