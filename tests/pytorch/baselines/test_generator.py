"""Each baseline as a tiny random pipeline of the real class, loaded from a folder like releases."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[torch]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[torch]'")
pytest.importorskip('diffusers', reason="not installed: pip install 'ttm_jax[torch]'")
pytest.importorskip('ftfy', reason="not installed: pip install 'ttm_jax[torch]'")

from tests.helpers import tiny_pipelines
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.baselines.generator import Generator
from ttm_jax.pytorch.baselines.models import BASELINES, Plan

# The function of `tiny_pipelines`, the size and the number of frames.
CASES = {
  'wan-i2v': (tiny_pipelines.wan21, (32, 48), 9),
  'wan22-ti2v-5b': (tiny_pipelines.wan22, (32, 32), 9),
  'cogvideox-i2v': (tiny_pipelines.cogvideox, (32, 48), 9),
  'svd': (tiny_pipelines.svd, (32, 32), 3),
  'i2vgen-xl': (tiny_pipelines.i2vgen, (32, 32), 3),
}
SLOW = ('svd', 'i2vgen-xl')


def weights(folder):
  return ModelSource(str(folder), 'cpu', 'float32', offline=True)


def small(name):
  _, size, frames = CASES[name]
  return dataclasses.replace(BASELINES[name], size=size, lengths=(frames,))


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_real_pipelines_make_videos_of_the_clip(name, tmp_path):
  make, size, frames = CASES[name]
  folder = make(tmp_path / 'pipeline', tmp_path / 'texts')
  generate = Generator.load(small(name), weights(folder), steps=2, negative='ugly')
  plan = Plan.of(generate.model, (3, 16, 24), 8, size)
  assert plan.frames == frames
  picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
  video = generate(picture, 'A dog runs.', plan, seed=1)
  assert video.shape == (3, 16, 24, 3) and video.dtype == np.uint8 and video.std() > 1
  if name not in SLOW:
    np.testing.assert_array_equal(generate(picture, 'A dog runs.', plan, seed=1), video)
    assert (generate(picture, 'A dog runs.', plan, seed=2) != video).any()
    assert (generate(255 - picture, 'A dog runs.', plan, seed=1) != video).any()
    # Random weights hardly react to texts: exaggerate what they do.
    strong = Generator(dataclasses.replace(generate.model, guidance=5e4), generate.pipeline, 2)
    dog, cat = (strong(picture, text, plan, seed=1) for text in ('A dog runs.', 'A cat.'))
    assert (dog != cat).any()


def test_folders_that_are_no_such_pipeline(tmp_path):
  model = small('wan-i2v')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(InputError, match=r'model_index\.json: missing; give a folder in the format'):
    Generator.load(model, weights(tmp_path / 'empty'))
  with pytest.raises(InputError, match='none: there is no such folder; check the path'):
    Generator.load(model, weights(tmp_path / 'none'))
  folder = tiny_pipelines.wan21(tmp_path / 'pipeline', tmp_path / 'texts')
  config = folder / 'text_encoder' / 'config.json'
  content = json.loads(config.read_text())
  config.write_text(json.dumps({**content, 'attn_implementation': 'someone/kernel'}))
  with pytest.raises(InputError, match='names the kernel someone/kernel, which is code from the'):
    Generator.load(model, weights(folder))
  config.write_text('{')
  with pytest.raises(InputError, match=r'config\.json: not JSON .* copy the folder again'):
    Generator.load(model, weights(folder))
  config.write_text(json.dumps(content))
  index = folder / 'model_index.json'
  components = json.loads(index.read_text())
  index.write_text(json.dumps({**components, 'vae': ['antigravity', 'Vae']}))
  with pytest.raises(InputError, match="vae is of 'antigravity', not of diffusers or transformers"):
    Generator.load(model, weights(folder))
  index.write_text(json.dumps(components))
  (file,) = (folder / 'transformer').glob('*.safetensors')
  tensors = safetensors.numpy.load_file(file)
  tensors.pop(next(iter(tensors)))
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(InputError, match='transformer: lacks 1 weights of a WanTransformer3DModel;'):
    Generator.load(model, weights(folder))
