"""Foreign models run no code: each test attacks with a malicious folder."""

import json
import sys
import types

import numpy as np
import pytest

pytest.importorskip('torch', reason="not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import safetensors.torch
import torch
import transformers

from tests.helpers import tiny_models
from ttm_jax.errors import InputError
from ttm_jax.pytorch.annotation import sam2_config, sam2_package
from ttm_jax.pytorch.annotation.model_source import ModelSource
from ttm_jax.pytorch.annotation.text_encoder import TransformersText
from ttm_jax.pytorch.segmentation import Segmenter
from ttm_jax.pytorch.text_encoder import TTMTextEncoder

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def careless(monkeypatch):
  """A user who answers yes to every question."""
  asked = []
  monkeypatch.setattr('builtins.input', lambda *question: asked.append(question) or 'y')
  yield
  assert not asked


@pytest.fixture
def trap(tmp_path):
  """A folder whose Python file leaves a marker file when it is imported, and that marker."""
  folder, mark = tmp_path / 'model', tmp_path / 'ran'
  folder.mkdir()
  names = {
    'AutoConfig': 'evil.Evil',
    'AutoModel': 'evil.Evil',
    'AutoModelForCausalLM': 'evil.Evil',
    'AutoModelForImageTextToText': 'evil.Evil',
    'AutoModelForZeroShotObjectDetection': 'evil.Evil',
    'AutoProcessor': 'evil.Evil',
    'AutoImageProcessor': 'evil.Evil',
    'AutoTokenizer': ['evil.Evil', 'evil.Evil'],
  }
  (folder / 'evil.py').write_text(f'open({str(mark)!r}, "w").close()\nclass Evil: pass\n')
  for name in ('config', 'processor_config', 'preprocessor_config', 'tokenizer_config'):
    said = {'model_type': 'evil', 'auto_map': names, 'processor_class': 'Evil'}
    (folder / f'{name}.json').write_text(json.dumps(said))
  return folder, mark


LOADERS = (
  'AutoConfig',
  'AutoTokenizer',
  'AutoProcessor',
  'AutoImageProcessor',
  'AutoModelForCausalLM',
  'AutoModelForImageTextToText',
  'AutoModelForZeroShotObjectDetection',
)


@pytest.mark.parametrize('name', LOADERS)
def test_code_of_a_folder_is_not_run(trap, name):
  folder, mark = trap
  weights = ModelSource(str(folder), 'cpu', offline=True)
  load = weights.load if 'Model' in name else weights.load_part
  with pytest.raises(
    InputError, match=r'contains Python code, which is never run|cannot be loaded'
  ):
    load(getattr(transformers, name))
  assert not mark.exists()


def test_code_is_not_run_by_the_exported_pipeline(trap):
  folder, mark = trap
  with pytest.raises(InputError, match='contains Python code, which is never run'):
    Segmenter(str(folder), str(folder))
  encoder = {'name': 'clip', 'dim': 8, 'length': 4, 'prompt_length': 4}
  stages = {'stage2': {'encoders': [encoder], 'max_objects': 1, 'prefix': ''}}
  with pytest.raises(InputError, match=r"'clip' cannot be loaded .* contains Python code"):
    TTMTextEncoder(stages, {'clip': str(folder)})('stage2', ['A dog.'], [{}])
  assert not mark.exists()


def test_a_known_class_is_loaded_without_the_code_beside_it(tmp_path):
  path, mark = tiny_models.t5(tmp_path / 't5'), tmp_path / 'ran'
  said = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(said | {'auto_map': {'AutoConfig': 'evil.Evil'}}))
  (path / 'evil.py').write_text(f'open({str(mark)!r}, "w").close()\nclass Evil: pass\n')
  embeddings, _ = TransformersText(ModelSource(str(path), 'cpu', offline=True))(['a dog'], 8)
  assert embeddings.any() and not mark.exists()


@pytest.mark.parametrize(
  'change',
  [
    {'attn_implementation': 'evil/kernel'},
    {'_attn_implementation': {'': 'evil/kernel'}},
    {'text_config': {'experts_implementation': 'evil/kernel:layer'}},
  ],
)
def test_kernels_are_not_fetched(tmp_path, change):
  path = tiny_models.t5(tmp_path / 't5')
  said = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(said | change))
  with pytest.raises(
    InputError, match=r'names the kernel evil/kernel.*, which is code from the hub'
  ):
    TransformersText(ModelSource(str(path), 'cpu', offline=True))


def test_pickles_are_not_opened(tmp_path):
  """Neither the steps nor the exported pipeline open them."""
  path, mark = tiny_models.t5(tmp_path / 't5'), tmp_path / 'ran'
  (path / 'model.safetensors').unlink()

  class Evil:
    def __reduce__(self):
      return open, (str(mark), 'w')

  torch.save({'shared.weight': Evil()}, path / 'pytorch_model.bin')
  with pytest.raises(InputError, match='cannot be loaded as T5EncoderModel'):
    TransformersText(ModelSource(str(path), 'cpu', offline=True))
  encoder = {'name': 't5', 'dim': 16, 'length': 4, 'prompt_length': 4}
  stages = {'stage2': {'encoders': [encoder], 'max_objects': 1, 'prefix': ''}}
  with pytest.raises(InputError, match="'t5' cannot be loaded"):
    TTMTextEncoder(stages, {'t5': str(path)})('stage2', ['A dog.'], [{}])
  assert not mark.exists()


# The configuration of the package sam2.

CONFIG = """# @package _global_

model:
  _target_: sam2.modeling.sam2_base.SAM2Base
  image_encoder:
    _target_: sam2.modeling.backbones.image_encoder.ImageEncoder
    trunk:
      _target_: sam2.modeling.backbones.hieradet.Hiera
      stages: [1, 2, 7, 2]
      dim_mul: 2.0
    neck:
      _target_: sam2.modeling.backbones.image_encoder.FpnNeck
      fpn_interp_model: nearest
      scale: null
  memory_encoder:
    fuser:
      layer:
        _target_: sam2.modeling.memory_encoder.CXBlock
        layer_scale_init_value: 1e-6
        use_dwconv: True
  image_size: 256
"""


@pytest.fixture
def configured(tmp_path):
  """Write a folder with a configuration; return its path."""

  def write(text):
    folder = tmp_path / 'sam2'
    folder.mkdir(exist_ok=True)
    (folder / 'model.yaml').write_text(text)
    safetensors.torch.save_file({'weight': torch.zeros(1)}, folder / 'model.safetensors')
    return folder

  return write


def test_configurations_are_read(configured):
  found = sam2_config.read_config(configured(CONFIG) / 'model.yaml')
  assert found['image_size'] == 256 and found['image_encoder']['trunk']['stages'] == [1, 2, 7, 2]
  assert found['image_encoder']['neck']['scale'] is None
  assert found['memory_encoder']['fuser']['layer'] == {
    '_target_': 'sam2.modeling.memory_encoder.CXBlock',
    'layer_scale_init_value': 1e-6,
    'use_dwconv': True,
  }


ATTACKS = {
  'a function': ('image_size: 256', 'evil: {_target_: os.system, command: touch MARK}'),
  'the root': ('_target_: sam2.modeling.sam2_base.SAM2Base', '_target_: subprocess.getoutput'),
  'of the package': ('image_size: 256', 'x: {_target_: sam2.build_sam.build_sam2}'),
  'a list of names': ('image_size: 256', 'x: {_target_: [os.system]}'),
  'in a list': ('image_size: 256', 'x: [[{_target_: builtins.exec, _args_: [1]}]]'),
  'positional': ('image_size: 256', 'x: {_args_: [1]}'),
  'a pickle': ('dim_mul: 2.0', 'weights_path: /tmp/evil.pt'),
  'a bare pickle': ('dim_mul: 2.0', 'weights_path: evil.pt'),
  'the environment': ('image_size: 256', 'image_size: ${oc.env:SECRET}'),
  'python': ('image_size: 256', 'image_size: !!python/object/apply:os.system [touch MARK]'),
  'aliases': ('image_size: 256', 'a: &a [1]\n  b: *a'),
  'depth': ('image_size: 256', 'a: ' + '[' * 2000 + ']' * 2000),
  'no section': ('model:', 'trainer:'),
  'size': ('image_size: 256', '#' * 70_000),
  'not text': ('image_size: 256', '\0'),
}


@pytest.mark.parametrize('attack', ATTACKS)
def test_configurations_can_run_nothing(configured, tmp_path, attack):
  old, new = ATTACKS[attack]
  assert old in CONFIG
  folder = configured(CONFIG.replace(old, new.replace('MARK', str(tmp_path / 'ran')), 1))
  with pytest.raises(InputError, match=r'model\.yaml: '):
    sam2_config.read_config(folder / 'model.yaml')
  assert not (tmp_path / 'ran').exists()


@pytest.fixture
def package(monkeypatch):
  """Replace the packages sam2 and hydra; record what Hydra would get."""
  seen = types.SimpleNamespace(places=[], built=[], dtypes=[])

  class Predictor(torch.nn.Module):
    """Detects bright pixels with a network of one weight, which shows the compute dtype."""

    def __init__(self):
      super().__init__()
      self.weight = torch.nn.Parameter(torch.ones(1, 1))

    @property
    def device(self):
      return self.weight.device

    def init_state(self, folder):
      from pathlib import Path

      from PIL import Image

      self.objects = []
      return [np.asarray(Image.open(path)) for path in sorted(Path(folder).glob('*.jpg'))]

    def add_new_points_or_box(self, state, frame_idx, obj_id, box):
      assert frame_idx == 0 and box.dtype == np.float32
      self.objects.append(obj_id)

    def propagate_in_video(self, state):
      for number, frame in enumerate(state):
        gray = torch.from_numpy(frame.astype(np.float32).mean(-1, keepdims=True)) / 255
        logits = torch.nn.functional.linear(gray, self.weight)[..., 0] - 0.5
        seen.dtypes.append(logits.dtype)
        yield number, self.objects, torch.stack([logits] * len(self.objects))[:, None]

  class Hydra:
    @staticmethod
    def instance():
      return types.SimpleNamespace(clear=lambda: None)

  class Initialized:
    def __init__(self, place, version_base):
      from pathlib import Path

      seen.places.append({p.name: p.read_text() for p in Path(place).iterdir()})

    def __enter__(self): ...
    def __exit__(self, *error): ...

  def build(name, checkpoint, device):
    assert checkpoint is None
    seen.built.append((name, device))
    return Predictor().to(device)

  modules = {
    'sam2': {},
    'sam2.build_sam': {'build_sam2_video_predictor': build},
    'sam2.sam2_video_predictor': {'SAM2VideoPredictor': Predictor},
    'hydra': {'initialize_config_dir': Initialized},
    'hydra.core': {},
    'hydra.core.global_hydra': {'GlobalHydra': Hydra},
  }
  for name, content in modules.items():
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
  return seen


def test_hydra_sees_only_what_was_checked(package, configured):
  import yaml

  folder = configured(f'defaults: [other]\nhydra: {{callbacks: evil}}\n{CONFIG}')
  (folder / 'other.txt').write_text('x')
  safetensors.torch.save_file({'weight': torch.ones(1, 1)}, folder / 'model.safetensors')
  sam2_package.PackageTracker(ModelSource(str(folder), 'cpu'))
  ((name, text),) = package.places[0].items()
  assert package.built == [(name, 'cpu')]
  checked = yaml.safe_load(text)
  assert list(checked) == ['model']
  assert checked['model'] == sam2_config.read_config(folder / 'model.yaml')


def test_planted_configurations_never_reach_hydra(package, configured):
  with pytest.raises(InputError, match=r"model\._target_ is 'os\.system'; only classes of the"):
    sam2_package.PackageTracker(
      ModelSource(
        str(configured(CONFIG.replace('sam2.modeling.sam2_base.SAM2Base', 'os.system'))), 'cpu'
      )
    )
  assert not package.places and not package.built


def test_weights_of_another_model_are_refused(package, configured):
  with pytest.raises(InputError, match='is not a model for the package sam2'):
    sam2_package.PackageTracker(ModelSource(str(configured(CONFIG)), 'cpu'))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_the_package_computes_in_the_chosen_dtype(package, configured, dtype):
  folder = configured(CONFIG)
  safetensors.torch.save_file({'weight': torch.ones(1, 1)}, folder / 'model.safetensors')
  track = sam2_package.PackageTracker(ModelSource(str(folder), 'cpu', dtype))
  values = np.linspace(0, 255, 32).astype(np.uint8)
  frames = np.broadcast_to(values[None, None, :, None], (2, 16, 32, 3))
  logits = track(frames, np.array([[0.0, 0, 8, 8], [8.0, 8, 16, 16]]))
  assert logits.shape == (2, 2, 16, 32) and logits.dtype == np.float32
  assert package.dtypes == [getattr(torch, dtype)] * 2
  wanted = np.broadcast_to(values / 255 - 0.5, logits.shape)
  np.testing.assert_allclose(logits, wanted, atol=0.01)
