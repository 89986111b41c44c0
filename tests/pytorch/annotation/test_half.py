"""Every model step gives nearly the same results in half precision as in float32.

On a GPU `--dtype auto` is bfloat16. The models here are small and random, on a CPU.
"""

import functools
import sys
import types

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import safetensors.torch
import torch
import transformers

from data_tools.steps import flow
from tests.helpers import tiny_models
from ttm_jax.pytorch.annotation import captioner, clip_score, grounding_dino, language_model, sam2
from ttm_jax.pytorch.annotation import raft as flow_network
from ttm_jax.pytorch.annotation.model_source import DTYPES, ModelSource
from ttm_jax.pytorch.annotation.text_encoder import TransformersText

transformers.utils.logging.disable_progress_bar()

RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 255, (3, 40, 60, 3), np.uint8)
PHOTO = RNG.integers(0, 255, (400, 600, 3), np.uint8)
HALF = pytest.mark.parametrize('dtype', [dtype for dtype in DTYPES if dtype != 'float32'])
# Largest error of half precision after a few layers, relative to the largest value.
OFF = {'bfloat16': 0.02, 'float16': 0.003}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Make each model once; return its weights in a dtype."""
  root = tmp_path_factory.mktemp('models')

  @functools.cache
  def path(name):
    if name == 'umt5':
      return tiny_models.t5(root / name, multilingual=True)
    return getattr(tiny_models, name)(root / name)

  return lambda name, dtype: ModelSource(str(path(name)), 'cpu', dtype, offline=True)


def check(found, wanted, dtype):
  """Fail unless the values are near those of float32, but not equal."""
  assert found.shape == wanted.shape and np.isfinite(found).all() and np.ptp(wanted) > 0
  np.testing.assert_allclose(found, wanted, rtol=0, atol=OFF[dtype] * np.abs(wanted).max())
  assert (found != wanted).any(), 'computed in float32'


def first_logits(model, run):
  """Return a language model's logits of the first token, float32 [n, words], while `run` runs."""
  seen = []
  hook = model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits))
  run()
  hook.remove()
  return seen[0][:, -1].float().numpy()


@HALF
def test_language_model(made, monkeypatch, dtype):
  monkeypatch.setattr(language_model, 'MAX_NEW_TOKENS', 2)

  def logits(dtype):
    answer = language_model.LanguageModel(made('llama', dtype))
    return first_logits(answer._model, lambda: answer(['A dog runs.', 'A cat.']))

  check(logits(dtype), logits('float32'), dtype)


@HALF
def test_captions(made, monkeypatch, dtype):
  monkeypatch.setattr(captioner, 'MAX_NEW_TOKENS', 2)

  def logits(dtype):
    template = str(language_model.TEMPLATES / 'caption.txt')
    describe = captioner.VisionLanguageModel(made('vision_language', dtype), template)
    return first_logits(describe._model, lambda: describe([VIDEO]))

  check(logits(dtype), logits('float32'), dtype)


@HALF
def test_boxes(made, monkeypatch, dtype):
  def first(values, k, dim=-1, **options):
    """Take the first box: of random proposals, rounding decides which is best."""
    best = torch.arange(k).expand(*values.shape[:-1], k)
    return values.gather(dim, best), best

  monkeypatch.setattr(torch, 'topk', first)

  def found(dtype):
    find = grounding_dino.GroundingDino(made('grounding_dino', dtype), 0.0)
    ((boxes, scores),) = find([PHOTO], ['dog'])
    assert boxes.dtype == scores.dtype == np.float32
    return boxes, scores

  (boxes, scores), (true_boxes, true_scores) = found(dtype), found('float32')
  check(boxes, true_boxes, dtype)
  np.testing.assert_allclose(scores, true_scores, atol={'bfloat16': 0.1, 'float16': 0.01}[dtype])


@HALF
def test_masks(made, monkeypatch, dtype):
  boxes = np.array([[5.0, 8, 25, 30], [30.0, 4, 50.3, 36]])
  seen = []

  def logits(dtype):
    track = sam2.TransformersTracker(made('sam2_video', dtype))
    run = type(track._model)._single_frame_forward

    def watched(self, *inputs, input_points=None, **others):
      if input_points is not None and dtype != 'float32':
        seen.append(input_points)
      return run(self, *inputs, input_points=input_points, **others)

    monkeypatch.setattr(type(track._model), '_single_frame_forward', watched)
    maps = track(VIDEO, boxes)
    monkeypatch.setattr(type(track._model), '_single_frame_forward', run)
    return np.clip(maps, -32, 32)

  found, wanted = logits(dtype), logits('float32')
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, atol=OFF[dtype] * np.ptp(wanted))
  # Boxes reach the model without rounding.
  scale = tiny_models.SIDE / np.array([60, 40])
  for points, box in zip(seen[:2], boxes, strict=True):
    np.testing.assert_allclose(points.numpy().reshape(2, 2), box.reshape(2, 2) * scale, rtol=1e-6)


@HALF
def test_aesthetic_scores(made, tmp_path, dtype):
  head = str(tiny_models.aesthetic_head(tmp_path / 'head.safetensors'))
  scores = {
    d: clip_score.ClipScore(made('clip_vision', d), head)(VIDEO) for d in (dtype, 'float32')
  }
  check(scores[dtype], scores['float32'], dtype)


@HALF
@pytest.mark.parametrize('name', ['clip_text', 't5', 'umt5', 'byt5'])
def test_texts(made, name, dtype):
  def embeddings(dtype):
    return TransformersText(made(name, dtype))(['a dog', ''], 12)

  (found, counts), (wanted, true_counts) = embeddings(dtype), embeddings('float32')
  assert counts.tolist() == true_counts.tolist()
  check(found.astype(np.float32), wanted.astype(np.float32), dtype)


class Raft(torch.nn.Module):
  """Moves by the mean brightness; like torchvision's RAFT it fails if a dtype is not float32."""

  def __init__(self):
    super().__init__()
    self.weight = torch.nn.Parameter(torch.ones(2))

  def forward(self, first, second):
    grid = torch.arange(first.shape[-1], dtype=torch.float32).expand(1, *first.shape[-2:])
    both = torch.stack([first.mean(1), second.mean(1)])
    assert both.dtype == self.weight.dtype == grid.dtype
    return [torch.stack([both.mean(0) * self.weight[0], grid.expand(len(first), -1, -1)], 1)]


@pytest.mark.parametrize('dtype', DTYPES)
def test_flow_stays_in_float32(monkeypatch, tmp_path, dtype):
  module = types.ModuleType('torchvision.models.optical_flow')
  module.raft_large = lambda weights, progress: Raft()
  for name in ('torchvision', 'torchvision.models'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, module.__name__, module)
  path = tmp_path / 'raft.safetensors'
  safetensors.torch.save_file({'weight': torch.tensor([3.0, 1.0])}, path)
  raft = flow_network.Raft(ModelSource(str(path), 'cpu', dtype))
  video = np.full((3, 30, 50, 3), 255, np.uint8)
  found = raft(video)
  assert found.dtype == np.float32 and found.shape == (2, 30, 50, 2)
  np.testing.assert_array_equal(found[..., 0], 3)
  np.testing.assert_array_equal(found[1, 7, :, 1], np.arange(50))
  assert flow.score(found) == pytest.approx(np.hypot(3, np.arange(50)).mean(), rel=1e-5)
