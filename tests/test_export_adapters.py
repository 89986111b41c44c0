"""LoRA runs exported: merged into the network, and as adapters that PEFT and diffusers load."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from tests.helpers import cli, exported
from ttm_jax.errors import InputError
from ttm_jax.exporting.adapters import METADATA, NEW_PARTS, WEIGHTS, export_adapters
from ttm_jax.exporting.folder import export
from ttm_jax.nn import lora
from ttm_jax.presets import PRESETS
from ttm_jax.training.partial import by_name
from ttm_jax.training.sources import adapted_run, read_parameters

# A name of an adapted layer of each preset, and the shape of its kernel in PyTorch.
KEYS = {
  'dit': ('transformer.blocks.0.attn.query', (32, 32)),
  'unet': ('unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q', (8, 8)),
  'wan': ('transformer.blocks.0.attn1.to_q', (32, 32)),
}
NETWORK = 'diffusion_pytorch_model.safetensors'


@pytest.fixture(
  scope='module',
  params=[pytest.param(n, marks=pytest.mark.slow if n == 'unet' else ()) for n in exported.NAMES],
)
def made(request, tmp_path_factory):
  """A preset with its base, a LoRA run, the merged export and the adapters."""
  path = tmp_path_factory.mktemp(request.param)
  base, _ = exported.make_runs(path, request.param)
  run = exported.save_adapted_run(path / 'lora', request.param, base)
  export(base, run, path / 'folder', 'fp32')
  export_adapters({'stage2': run}, path / 'adapters', 'fp32')
  return request.param, base, run, path / 'folder' / 'stage2', path / 'adapters' / 'stage2'


def adapters(folder):
  """Return the (A, B) of each layer of a file, by the name of the layer."""
  tensors = safetensors.numpy.load_file(folder / WEIGHTS)
  ends = '.lora_A.weight', '.lora_B.weight'
  layers = {name.removesuffix(ends[0]).removesuffix(ends[1]) for name in tensors}
  assert len(tensors) == 2 * len(layers)
  return {name: tuple(tensors[f'{name}{end}'] for end in ends) for name in layers}


def test_the_merged_parameters_are_base_and_product(made):
  name, base, run, _, _ = made
  preset, found = PRESETS[name], adapted_run(run)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), found.shapes)
  start = by_name(preset.transfer(read_parameters(base), zeros))
  trained, plain = by_name(found.trained), by_name(read_parameters(run))
  adapted = [n for n in plain if f'{n.removesuffix("kernel")}{lora.A}' in trained]
  assert len(adapted) >= 10
  for path, value in plain.items():
    layer = path.removesuffix('kernel')
    if path in trained:
      wanted = np.asarray(trained[path])
    elif path in adapted:
      a, b = (np.asarray(trained[f'{layer}{part}'], np.float64) for part in (lora.A, lora.B))
      wanted = start[path] + 3.0 / 2 * (a @ b)
    else:
      wanted = start[path]
    np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6, err_msg=path)


def test_the_adapters_applied_to_the_base_are_the_merged_network(made):
  name, base, run, folder, where = made
  found = adapted_run(run)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), found.shapes)
  start = PRESETS[name].transfer(read_parameters(base), zeros)
  plain = dict(found.preset.torch.to_torch(start, found.sizes))
  merged = safetensors.numpy.load_file(folder / NETWORK)
  prefix = f'{found.preset.torch.component}.'
  changed = set()
  for layer, (a, b) in adapters(where).items():
    assert a.shape[0] == b.shape[1] == 2
    weight = f'{layer.removeprefix(prefix)}.weight'
    changed.add(weight)
    np.testing.assert_allclose(merged[weight], plain[weight] + b @ a, rtol=1e-6, atol=1e-6)
  key, shape = KEYS[name]
  assert (
    f'{key.removeprefix(prefix)}.weight' in changed
    and merged[f'{key.removeprefix(prefix)}.weight'].shape == shape
  )
  new = safetensors.numpy.load_file(where / NEW_PARTS)
  assert new and all('masked' in n or 'visual' in n or n.startswith('text.') for n in new)
  for tensor in new.keys() & merged.keys():
    np.testing.assert_array_equal(new[tensor], merged[tensor])
  same = merged.keys() - changed - new.keys()
  assert all(np.array_equal(merged[n], plain[n]) for n in same if n != 'conv_in.weight')


def metadata(folder):
  with safe_open(folder / WEIGHTS, 'np') as file:
    return json.loads(file.metadata()[METADATA])


def test_the_metadata_are_those_of_diffusers(made):
  name, _, _, _, where = made
  prefix = f'{PRESETS[name].torch.component}.'
  found = metadata(where)
  assert all(key.startswith(prefix) for key in found)
  # The factor alpha / rank is in B.
  assert (found[f'{prefix}r'], found[f'{prefix}lora_alpha']) == (2, 2)
  layers = sorted(layer.removeprefix(prefix) for layer in adapters(where))
  assert found[f'{prefix}target_modules'] == layers


def test_peft_loads_them(made):
  peft = pytest.importorskip('peft', reason='peft is not installed: pip install ttm_jax[dev]')
  import torch

  name, _, _, folder, where = made
  prefix = f'{PRESETS[name].torch.component}.'
  plain = safetensors.numpy.load_file(folder / NETWORK)
  model = exported.pipe(folder.parent).stage2
  for layer, (a, b) in adapters(where).items():  # Back to the base.
    model.get_submodule(layer.removeprefix(prefix)).weight.data -= torch.from_numpy(b @ a)
  config = {k.removeprefix(prefix): v for k, v in metadata(where).items()}
  model = peft.inject_adapter_in_model(peft.LoraConfig(**config), model)
  tensors = safetensors.numpy.load_file(where / WEIGHTS)
  state = {n.removeprefix(prefix): torch.from_numpy(x) for n, x in tensors.items()}
  result = peft.set_peft_model_state_dict(model, state)
  assert not result.unexpected_keys
  assert not [key for key in result.missing_keys if 'lora' in key]
  count = 0
  for module_name, module in model.named_modules():
    if isinstance(module, peft.tuners.lora.LoraLayer):
      module.merge()
      weight = module.get_base_layer().weight.detach().numpy()
      np.testing.assert_allclose(weight, plain[f'{module_name}.weight'], rtol=1e-5, atol=2e-6)
      count += 1
  assert count == len(adapters(where))


def test_the_command_and_its_mistakes(made, tmp_path):
  name, base, run, _, where = made
  if name != 'dit':
    pytest.skip('the command is the same for every preset')
  out = tmp_path / 'out'
  ended = cli.run('ttm_jax.export', '--adapters_only', f'--stage2={run}', f'--out={out}')
  assert (ended.code, ended.out) == (0, f'adapters of stage2 are in {out}\n'), ended.err
  rounded = adapters(out / 'stage2')
  for layer, exact in adapters(where).items():
    for a, b in zip(rounded[layer], exact, strict=True):
      assert a.dtype.name == 'bfloat16'
      np.testing.assert_allclose(a.astype(np.float32), b, rtol=2**-8)
  with pytest.raises(InputError, match=rf'run {base} has no adapters \(config.lora.rank is 0\)'):
    export_adapters({'stage1': base}, tmp_path / 'none')
  assert not (tmp_path / 'none').exists()
  for arguments, sentence in (
    (('--adapters_only',), 'give the runs of the adapters: --stage1 RUN, --stage2 RUN, or both'),
    ((f'--stage2={run}',), 'give the run of the other stage, too: --stage1 RUN'),
  ):
    ended = cli.run('ttm_jax.export', *arguments, f'--out={tmp_path / "none"}')
    assert (ended.code, ended.err) == (2, f'error: {sentence}\n')
