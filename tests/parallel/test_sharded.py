"""A mesh of eight devices computes the same as one device."""

import json
import subprocess
import sys

import pytest

from tests.helpers import tiny
from ttm_jax.errors import InputError
from ttm_jax.training.denoising import Denoising


def eight_devices(*arguments):
  ended = subprocess.run(
    [sys.executable, '-m', 'tests.helpers.eight_devices', *arguments],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 0, ended.stderr
  return json.loads(ended.stdout)


@pytest.fixture(scope='module')
def found():
  return eight_devices('attention')


def test_values_and_gradients(found):
  assert len(found['errors']) == 12
  assert max(found['errors'].values()) < 1e-5, found['errors']


def test_tokens_are_exchanged_for_heads_and_never_gathered(found):
  assert found['collectives']['all-to-all'] > 0
  assert found['collectives']['all-gather'] == 0, found['collectives']


def test_parameters_are_placed_in_parts_on_every_mesh():
  for mesh, got in eight_devices('placing').items():
    # A part has at most 2 kB, but a kernel that is sharded along all of its axes is one part.
    assert got == {'error': 0, 'same': True, 'most': 2**12 if mesh == 'both' else 2**11}, mesh


# In float64; the autoencoder in float32.
EXACT, NEAR = 1e-9, 1e-5
ALONE = [{'data': 8}, {'fsdp': 8}, {'sequence': 8}, {'tensor': 8}]
MIXED = [
  {'fsdp': 2, 'sequence': 2, 'tensor': 2},
  {'fsdp': 4, 'tensor': 2},
  {'data': 2, 'sequence': 2, 'tensor': 2},
  {'data': 2, 'fsdp': 4},
]
# These options must not change the results either.
PARTS = {'train.accumulate': 2}
OFFLOAD = {'optimizer.offload': True, 'model.remat': 'offload'}
QUICK = [('stage2_dit', [MIXED[0] | PARTS])]
# The U-Net refuses to be split by tokens.
ONE = [{'data': 8}, {'fsdp': 8}, {'tensor': 8}, {'fsdp': 4, 'tensor': 2}, {'data': 2, 'fsdp': 4}]
LORA = {'lora.rank': 2, 'lora.dropout': 0.2, 'lora.base_dtype': 'float32'}
ALL = [(name, [*ALONE, *MIXED]) for name in ('stage1_dit', 'stage2_dit')]
ALL += [
  ('stage2_dit', [{'fsdp': 8} | PARTS | OFFLOAD]),
  ('stage2_dit', [mesh | PARTS | LORA for mesh in MIXED[:2]]),
  ('codec_tae', [{'fsdp': 8}]),
  ('stage1_unet', ONE),
  ('stage2_unet', [*ONE, ONE[-1] | PARTS, {'fsdp': 8} | OFFLOAD]),
  ('stage2_unet', [ONE[-1] | LORA]),
]


def test_the_unet_refuses_to_be_split_by_tokens(unet_latents):
  objective = Denoising(tiny.shrunk('stage2_unet', unet_latents, model__heads=4))
  objective.check_mesh({'tensor': 2})
  with pytest.raises(InputError, match="preset 'unet' cannot be split over mesh axis sequence"):
    objective.check_mesh({'sequence': 2})


def check(name, settings):
  for setting, errors in eight_devices('training', name, *map(json.dumps, settings)).items():
    print(name, setting, errors)
    most = NEAR if name == 'codec_tae' else EXACT
    assert errors['loss'] < most and errors['gradients'] < most, (name, setting, errors)
    sizes = json.loads(setting)
    if sizes.get('fsdp', 1) > 1:
      # Parameters, optimizer state, gradients and their sums are sharded over the devices.
      assert not errors['whole'], (name, setting, errors)
    if not {'sequence', 'tensor'} & set(sizes):
      assert not errors['gathered'], (name, setting, errors)


@pytest.mark.parametrize('name, settings', QUICK, ids=lambda x: x if isinstance(x, str) else '')
def test_training(name, settings):
  check(name, settings)


@pytest.mark.slow
@pytest.mark.parametrize('name, settings', ALL, ids=lambda x: x if isinstance(x, str) else '')
def test_training_on_every_mesh(name, settings):
  check(name, settings)
