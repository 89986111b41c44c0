"""Wan with masked layers in PyTorch and in JAX: same weights, same inputs, same outputs."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.helpers import pytorch_parity as parity
from tests.helpers import small_wan
from tests.helpers.networks import predict, same
from tests.helpers.small_wan import PLAIN, STAGE2, C, example_inputs, randomized, structure
from ttm_jax.models.wan import convert
from ttm_jax.models.wan.preset import PRESET
from ttm_jax.pretrained.weights import read
from ttm_jax.pytorch.wan import TTMWanTransformer

THEIR_FIELDS = inspect.signature(WanTransformer3DModel).parameters
CASES = {
  'stage 2': (STAGE2, True, False),
  'stage 2, word ids': (STAGE2, True, True),
  'TI2V': (dataclasses.replace(STAGE2, visual_channels=C), False, False),
  'text to video': (PLAIN, False, False),
  'masked cross alone': (dataclasses.replace(STAGE2, masked_self=False), True, False),
}


@torch.no_grad()
def in_torch(model, x_t, t, condition):
  out = model(parity.channels_first(x_t), parity.tensor(t), parity.condition(condition))
  assert out.dtype == torch.float32
  return parity.channels_last(out)


@pytest.mark.parametrize('case', CASES)
def test_same_predictions(case):
  config, objects, words = CASES[case]
  for seed in range(3):
    params = randomized(config, seed, words)
    x_t, t, condition = example_inputs(config, objects, seed + 10, words)
    if seed == 2:  # A time for each frame: the first one is clean.
      t = np.array([[0.0, 500.0, 500.0], [0.0, 20.0, 20.0]], np.float32)
    wanted = predict(structure(config, words)[0], params, x_t, t, condition)
    assert np.std(wanted) > 0.3
    found = parity.drift(
      in_torch(small_wan.module(config, params, words), x_t, t, condition), wanted
    )
    print(f'{case}, seed {seed}: {found:.1e}')
    assert found < 1e-4


def test_a_saved_network_is_read_back_and_loads_in_diffusers(tmp_path):
  params = randomized(STAGE2, 0)
  model = small_wan.module(STAGE2, params)
  model.save_pretrained(tmp_path)
  weights = read(tmp_path)
  config, encoders = convert.config_from_torch(weights)
  assert dataclasses.replace(config, dtype='float32', remat='none') == STAGE2
  assert encoders == small_wan.UMT5
  read_back = jax.tree.map(np.asarray, PRESET.torch.from_torch(weights, structure(STAGE2)[1]))
  assert same(read_back, params)
  # All weights of diffusers' own class are there, under its names.
  theirs = WanTransformer3DModel(
    **{name: value for name, value in weights.config.items() if name in THEIR_FIELDS}
  )
  missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
  assert not missing and len(unexpected) > 20
  assert all('masked' in name or 'visual' in name for name in unexpected)


def test_loads_in_half_precision(tmp_path):
  model = small_wan.module(STAGE2, randomized(STAGE2, 0))
  model.save_pretrained(tmp_path)
  half = TTMWanTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  assert (
    half.patch_embedding.weight.dtype == half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
  )
  assert (
    half.blocks[0].scale_shift_table.dtype == half.blocks[0].norm2.weight.dtype == torch.float32
  )
  inputs = example_inputs(STAGE2, True, 1)
  assert parity.drift(in_torch(half, *inputs), in_torch(model, *inputs)) < 0.1


def test_gradient_checkpointing_changes_nothing():
  model = small_wan.module(STAGE2, randomized(STAGE2, 0))
  x_t, t, condition = example_inputs(STAGE2, True, 1)
  given = parity.channels_first(x_t), parity.tensor(t), parity.condition(condition)
  found = []
  for enabled in (False, True):
    if enabled:
      model.enable_gradient_checkpointing()
    model.zero_grad()
    model(*given).square().mean().backward()
    found.append(model.blocks[0].masked_attn.attention.query.weight.grad.clone())
  torch.testing.assert_close(*found)
  assert found[0].abs().max() > 1e-6
