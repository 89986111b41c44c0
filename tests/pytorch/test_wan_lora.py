"""Adapters of Wan load in diffusers, and give the weights that are merged here."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip('peft', reason='peft is not installed (extra dev)')

from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.helpers import tiny
from ttm_jax.exporting.adapters import METADATA, NEW_PARTS, WEIGHTS, export_adapters
from ttm_jax.models.wan.preset import PRESET
from ttm_jax.nn import lora
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.loop import train
from ttm_jax.training.partial import by_name
from ttm_jax.training.sources import read_parameters

pytestmark = pytest.mark.slow  # Two trainings; tests/test_export_adapters.py is the quick one.

RANK = 2


def trained(name, data, run, **changes):
  """Train a configuration of Wan for a few steps; return its objective and the last state."""
  changes = {'optimizer__learning_rate': 1e-2, 'train__steps': 5} | changes
  objective = Denoising(tiny.shrunk(name, data, **changes))
  return objective, train(objective.config, objective, run)


@pytest.fixture(scope='module')
def runs(latents_for, tmp_path_factory):
  """A text-to-video run, and stage 2 as a LoRA run on top of it."""
  root, data = tmp_path_factory.mktemp('runs'), latents_for('wan')
  trained('demo_wan_pretrain', data, root / 'base')
  changes = {'init_from': str(root / 'base'), 'lora__rank': RANK, 'lora__alpha': 3.0}
  exact = {'lora__base_dtype': 'float32'}
  objective, state = trained('demo_wan_stage2', data, root / 'lora', **changes, **exact)
  return root, objective, state


@pytest.fixture(scope='module')
def folder(runs, tmp_path_factory):
  out = tmp_path_factory.mktemp('adapters') / 'out'
  export_adapters({'stage2': runs[0] / 'lora'}, out, 'fp32')
  return out / 'stage2'


def in_diffusers(objective, params):
  """Return the tensors of a network by their names in diffusers, and the module with them."""
  converted = PRESET.torch.to_torch(params, objective.denoiser.model_config)
  tensors = {name: torch.from_numpy(x.copy()) for name, x in converted}
  sizes = objective.denoiser.model_config
  model = WanTransformer3DModel(
    num_layers=sizes.layers,
    num_attention_heads=sizes.heads,
    attention_head_dim=sizes.head_dim,
    ffn_dim=sizes.ffn,
    in_channels=sizes.channels,
    out_channels=sizes.channels,
    text_dim=tiny.WORDS['words_dim'],
  )
  missing, _ = model.load_state_dict(tensors, strict=False)
  assert not missing
  return tensors, model


def test_default_targets_and_new_parts(runs):
  _, _, state = runs
  trained, frozen = by_name(state.params), by_name(state.frozen)
  layers = {name.rpartition('.')[0] for name in trained if lora.is_adapter(name)}
  plain = {'query', 'key', 'value', 'out'}
  assert layers == {
    f'{stack}.{part}'
    for stack in ('masked_blocks', 'blocks')
    for part in (
      *(f'attn.{x}' for x in plain),
      *(f'cross_attn.{x}' for x in plain),
      'ffn.up',
      'ffn.down',
    )
  }
  others = {name for name in trained if not lora.is_adapter(name)}
  assert others and all('masked_attn' in n or 'masked_cross' in n or 'visual' in n for n in others)
  assert 'text.words.table' in frozen and 'head.kernel' in frozen


def test_keys_are_those_of_diffusers(folder):
  found = load_file(folder / WEIGHTS)
  down = found['transformer.blocks.0.attn1.to_q.lora_A.weight']
  up = found['transformer.blocks.1.ffn.net.0.proj.lora_B.weight']
  assert down.shape == (RANK, 32) and up.shape == (48, RANK)
  assert all(name.startswith('transformer.blocks.') for name in found)
  with safe_open(folder / WEIGHTS, framework='np') as file:
    fields = json.loads(file.metadata()[METADATA])
  assert fields['transformer.r'] == fields['transformer.lora_alpha'] == RANK
  parts = load_file(folder / NEW_PARTS)
  assert parts['patch_embedding_visual.weight'].shape == (32, 2 * tiny.CHANNELS, 1, 2, 2)
  assert 'blocks.0.masked_attn.attention.query.weight' in parts


def test_diffusers_merges_to_the_weights_that_we_merge(runs, folder):
  root, objective, _ = runs
  merged, _ = in_diffusers(objective, read_parameters(root / 'lora'))
  base, model = in_diffusers(objective, read_parameters(root / 'base'))
  model.load_lora_adapter(load_file_torch(folder / WEIGHTS), prefix='transformer')
  model.fuse_lora()
  model.unload_lora()
  moved = 0.0
  for name, tensor in model.state_dict().items():
    torch.testing.assert_close(tensor, merged[name], atol=1e-6, rtol=0, msg=name)
    moved = max(moved, float((tensor - base[name]).abs().max()))
  assert moved > 1e-3


def load_file_torch(path):
  return {name: torch.from_numpy(np.array(x)) for name, x in load_file(path).items()}
