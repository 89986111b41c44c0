"""Code that needs torchvision: RAFT, and the package sam2 as a segmentation backend.

The torchvision of the package index cannot be imported beside a CPU build of torch, because
compiled operators are missing. Nothing here calls them, so they are declared first.
"""

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")

import torch

from data_tools.drafts import Draft, Rejected
from data_tools.steps import flow, segment
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.raft import Raft
from ttm_jax.pytorch.annotation.sam2 import tracker

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('torchvision') is None, reason='torchvision is not installed'
)


@pytest.fixture(scope='module', autouse=True)
def operators():
  """Declare the operators that the import of torchvision needs."""
  library = torch.library.Library('torchvision', 'FRAGMENT')
  for name in ('nms', 'qnms'):
    with contextlib.suppress(RuntimeError):  # This build has them.
      library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
  return library


def video(frames=3, size=(128, 136), seed=0):
  return np.random.default_rng(seed).integers(0, 255, (frames, *size, 3), np.uint8)


# RAFT.


@pytest.fixture(scope='module')
def raft_weights(operators, tmp_path_factory):
  import safetensors.torch
  from torchvision.models.optical_flow import raft_large

  torch.manual_seed(0)
  path = tmp_path_factory.mktemp('raft') / 'raft.safetensors'
  safetensors.torch.save_file(raft_large(weights=None).state_dict(), path)
  return ModelSource(str(path), 'cpu', batch=1)


def test_flow_is_that_of_the_library(raft_weights):
  from torchvision.models.optical_flow import raft_large

  raft = Raft(raft_weights)
  frames = video(3)
  found = raft(frames)
  assert found.shape == (2, 128, 136, 2) and found.dtype == np.float32
  model = raft_large(weights=None).eval()
  model.load_state_dict(raft._model.state_dict())
  pixels = torch.tensor(frames.transpose(0, 3, 1, 2)) / 127.5 - 1
  with torch.inference_mode():
    wanted = model(pixels[1:2], pixels[2:3])[-1][0].numpy().transpose(1, 2, 0)
  np.testing.assert_allclose(found[1], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_flow_is_computed_in_float32(raft_weights, dtype):
  frames = video(3)
  half = Raft(ModelSource(raft_weights.model, 'cpu', dtype))
  np.testing.assert_allclose(half(frames), Raft(raft_weights)(frames), atol=1e-3)
  (done,) = flow.Flow(half)([Draft('a', frames, 8.0)])
  assert isinstance(done, Draft) and done.scores['motion'] > 0


def test_small_and_odd_videos_are_padded(raft_weights, monkeypatch):
  raft = Raft(raft_weights)
  seen = []

  def planted(first, second):
    seen.append(first.shape)
    return [torch.ones(len(first), 2, *first.shape[2:]) * torch.tensor([3.0, -4]).view(1, 2, 1, 1)]

  monkeypatch.setattr(raft._model, 'forward', planted)
  assert raft(video(2, (30, 131))).shape == (1, 30, 131, 2)
  assert seen[-1] == (1, 3, 128, 136)
  draft = Draft('a', video(3, (40, 40)), 8.0)
  (done,) = flow.Flow(raft)([draft])
  assert done.scores == {'motion': 5.0}
  (still,) = flow.Flow(raft, least=6)([draft])
  assert (still.reason, still.detail) == ('motion below 6 pixels per frame', '5.00')
  (wild,) = flow.Flow(raft, most=2)([draft])
  assert isinstance(wild, Rejected) and wild.reason == 'motion above 2 pixels per frame'


def test_weights_of_raft_are_checked(tmp_path):
  (tmp_path / 'x').write_text('x')
  with pytest.raises(InputError, match='not the weights of raft_large'):
    Raft(ModelSource(str(tmp_path / 'x'), 'cpu'))


# The package sam2.

SIDE = 256  # Of the images that the model takes; its masks have a quarter of that size.


@pytest.fixture(scope='module')
def predictor_folder(operators, tmp_path_factory):
  """Write its smallest configuration for small images, with random weights, as a local folder."""
  pytest.importorskip('sam2', reason='the package sam2 is not installed')
  import safetensors.torch
  import sam2

  folder = tmp_path_factory.mktemp('sam2')
  shipped = Path(sam2.__file__).parent / 'configs' / 'sam2.1' / 'sam2.1_hiera_t.yaml'
  text = shipped.read_text().replace('image_size: 1024', f'image_size: {SIDE}')
  (folder / 'tiny.yaml').write_text(text)
  from hydra import initialize_config_dir
  from hydra.core.global_hydra import GlobalHydra
  from sam2.build_sam import build_sam2_video_predictor

  GlobalHydra.instance().clear()
  torch.manual_seed(0)
  with initialize_config_dir(str(folder), version_base='1.2'):
    made = build_sam2_video_predictor('tiny.yaml', None, device='cpu')
  tensors = {k: v.clone().contiguous() for k, v in made.state_dict().items()}
  safetensors.torch.save_file(tensors, folder / 'tiny.safetensors')
  return folder


@pytest.fixture(scope='module')
def predictor(predictor_folder):
  return tracker(ModelSource(str(predictor_folder), 'cpu'), 'sam2')


def test_planted_masks_give_the_true_label_map(predictor, monkeypatch):
  """The same case as in `test_models` with the other backend."""
  truth = np.zeros((3, 64, 64), np.uint8)
  for t in range(3):
    truth[t, 8:24, 4 + 8 * t : 24 + 8 * t] = 1
    truth[t, 16:40, 40:56] = 2
  seen = []
  run = predictor._predictor._run_single_frame_inference

  def planted(inference_state, output_dict, **inputs):
    output, masks = run(inference_state=inference_state, output_dict=output_dict, **inputs)
    if inputs['point_inputs'] is not None:
      seen.append(inputs['point_inputs'])
    kept = (inference_state['output_dict_per_obj'], inference_state['temp_output_dict_per_obj'])
    (number,) = {i + 1 for outputs in kept for i, o in outputs.items() if o is output_dict}
    mask = torch.tensor(truth[inputs['frame_idx']] == number)
    masks[0, 0] = torch.where(mask, 8.0, -8.0)
    output['pred_masks'][0, 0] = masks[0, 0]
    return output, masks

  monkeypatch.setattr(predictor._predictor, '_run_single_frame_inference', planted)
  boxes = {7: np.array([4.0, 8, 24, 24]), 3: np.array([40.0, 16, 56, 40])}
  names = {7: 'dog', 3: 'ball'}
  draft = Draft('a', video(3, (64, 64)), 8.0, names=names, boxes=boxes)
  (done,) = segment.Segment(predictor)([draft])
  assert isinstance(done, Draft), done
  np.testing.assert_array_equal(done.ids, np.array([0, 7, 3], np.uint8)[truth])
  for points, box in zip(seen, boxes.values(), strict=False):
    np.testing.assert_allclose(points['point_coords'][0], box.reshape(2, 2) * SIDE / 64)
    assert points['point_labels'][0].tolist() == [2, 3]


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_masks_in_half_precision(predictor, predictor_folder, dtype):
  half = tracker(ModelSource(str(predictor_folder), 'cpu', dtype), 'sam2')
  frames, boxes = video(2, (40, 60)), np.array([[5.0, 8, 25, 30]])
  found, wanted = half(frames, boxes), predictor(frames, boxes)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, atol=0.1 * np.ptp(np.clip(wanted, -32, 32)))


def test_sizes_come_back(predictor):
  logits = predictor(video(2, (40, 60)), np.array([[5.0, 8, 25, 30], [30.0, 4, 50, 36]]))
  assert logits.shape == (2, 2, 40, 60) and logits.dtype == np.float32


def test_auto_takes_the_package_first(predictor, capsys, tmp_path):
  with pytest.raises(InputError, match=r'needs one \.safetensors and one \.yaml'):
    tracker(ModelSource(str(tmp_path), 'cpu'))
  assert 'SAM 2 by the package sam2' in capsys.readouterr().err
