"""SAM 2 from clicks and boxes, on a tiny random model."""

import numpy as np
import pytest
import torch
from transformers import Sam2VideoModel

from ttm_jax.errors import InputError
from ttm_jax.pytorch.clicks import ClickSegmenter
from ttm_jax.pytorch.pretrained import load_model
from ttm_jax.pytorch.tracking import segment_clicks, track

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
NONE = np.zeros((0, 2)), np.zeros(0, bool)
BOX = np.array([5.0, 6.0, 30.0, 25.0])


@pytest.fixture(scope='module')
def sam(tiny_model):
  return str(tiny_model('sam2_video'))


@pytest.fixture(scope='module')
def model(sam):
  return seeing(load_model(Sam2VideoModel, sam))


def seeing(model):
  """Let a random model see an object in every prompt; else all of its logits are -1024."""
  with torch.no_grad():
    score = model.mask_decoder.pred_obj_score_head.proj_out
    score.weight.zero_()
    score.bias.fill_(1.0)
  return model


def test_a_box_alone_is_what_the_tracker_does_with_it(model):
  logits = segment_clicks(model, PICTURE, *NONE, BOX)
  assert logits.shape == (40, 60) and logits.dtype == np.float32
  assert np.ptp(logits) > 0
  np.testing.assert_array_equal(logits, track(model, PICTURE[None], BOX[None])[0, 0])


def test_clicks_count_and_their_side_counts(model):
  points = np.array([[10.0, 12.0], [50.0, 30.0]])
  inside = segment_clicks(model, PICTURE, points[:1], np.array([True]), None)
  outside = segment_clicks(model, PICTURE, points[:1], np.array([False]), None)
  both = segment_clicks(model, PICTURE, points, np.array([True, False]), BOX)
  assert np.abs(inside - outside).max() > 1e-4 and np.abs(inside - both).max() > 1e-4
  again = segment_clicks(model, PICTURE, points[:1], np.array([True]), None)
  np.testing.assert_array_equal(inside, again)


def test_the_segmenter_loads_the_model_once(sam, model):
  segment = ClickSegmenter(sam, 'cpu', offline=True)
  segment(PICTURE, *NONE, BOX)
  seeing(segment._model)
  mask = segment(PICTURE, np.array([[10.0, 12.0]]), np.array([True]), None)
  expected = segment_clicks(model, PICTURE, np.array([[10.0, 12.0]]), np.array([True]), None) > 0
  assert mask.dtype == bool and (mask == expected).all()
  loaded = segment._model
  segment(PICTURE, *NONE, BOX)
  assert segment._model is loaded


def test_a_model_that_is_not_there(tmp_path):
  segment = ClickSegmenter(str(tmp_path), 'cpu', offline=True)
  with pytest.raises(InputError):
    segment(PICTURE, *NONE, BOX)
