"""The U-Net in PyTorch against JAX and diffusers: layers, options, names."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import pytorch_parity as parity
from ttm_jax.conditioning import Condition, Objects, TokenMasks
from ttm_jax.errors import InputError
from ttm_jax.models.unet import convert as masked_unet
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.pretrained.weights import Weights
from ttm_jax.text.encoders import TextEncoderSpec, caption_tokens, prompt_tokens

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')

torch.set_num_threads(1)  # Threads cost more than such small networks.

FRAMES, SIDE, OBJECTS = 3, 8, 3
ENCODERS = {'words': TextEncoderSpec(8, 6, 4), 'clip.l': TextEncoderSpec(12, 5, 5)}

SMALL = UNetConfig(
  widths=(8, 16),
  units=1,
  heads=2,
  groups=4,
  text_width=12,
  channels=3,
  motion_length=6,
  dtype='float32',
  remat='none',
)
STAGE2 = dataclasses.replace(SMALL, masked_blocks=1, visual_channels=6)
DEEP = dataclasses.replace(STAGE2, widths=(8, 8, 16), masked_blocks=2)
# Two units per level, only one of them masked.
UNITS = dataclasses.replace(STAGE2, units=2)

# Configuration, and whether objects are given.
CASES = {
  'stage 1': (dataclasses.replace(SMALL, visual_channels=6), False),
  'stage 2': (DEEP, True),
  'TI2V': (dataclasses.replace(STAGE2, visual_channels=3), False),
  'in frames': (dataclasses.replace(STAGE2, masked_scope='spatial', motion_norm='frame'), True),
  'skip_level0': (dataclasses.replace(DEEP, masked_scope='skip_level0'), True),
  'self alone': (dataclasses.replace(UNITS, masked_cross=False), True),
  'cross alone': (dataclasses.replace(STAGE2, masked_self=False), True),
}


def shaken(config, encoders=ENCODERS):
  """Return structure and random parameters of the JAX network, including zero-initialized ones."""
  abstract = nnx.eval_shape(lambda: UNet(config, encoders, rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(abstract)
  rng = np.random.default_rng(0)

  def drawn(path, leaf):
    spread = 0.2 * rng.normal(size=leaf.shape)
    return np.asarray(spread + ('scale' in str(path[-1])), np.float32)

  return graphdef, jax.tree_util.tree_map_with_path(drawn, nnx.to_pure_dict(state))


def inputs(config, with_objects, seed=0, batch=2):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  def texts(*lead):
    count = int(np.prod(lead, initial=1))
    make = prompt_tokens if lead else caption_tokens
    made = {}
    for name, e in ENCODERS.items():
      n = e.prompt_length if lead else e.length
      tail = () if name == 'words' else (e.dim,)
      values = (
        rng.integers(2, 4096, (batch, *lead, n)).astype(np.int32)
        if name == 'words'
        else normal(batch, *lead, n, *tail)
      )
      lengths = rng.integers(0 if lead else 1, n + 1, (batch, count)).astype(np.int32)
      made[name] = make(values, lengths.reshape(batch, *lead))
    return made

  grid = (FRAMES, SIDE, SIDE)
  token_masks = []
  for level in range(len(config.widths) - 1):
    shape = (batch, FRAMES, SIDE >> level, SIDE >> level)
    region = np.left_shift(1, rng.integers(0, OBJECTS + 1, shape)).astype(np.int32)
    present = (2 * rng.integers(0, 2**OBJECTS, shape)).astype(np.int32)
    token_masks.append(TokenMasks(jnp.asarray(region), jnp.asarray(present)))
  condition = Condition(
    texts(),
    normal(batch, *grid, config.visual_channels) if config.visual_channels else None,
    Objects(tuple(token_masks), texts(OBJECTS)) if with_objects else None,
  )
  return normal(batch, *grid, config.channels), np.array([999, 20], np.float32)[:batch], condition


def theirs(config, params):
  """Return the same network in PyTorch."""
  from ttm_jax.pytorch.unet import TTMUNet

  model = TTMUNet(**masked_unet.config_to_torch(config, ENCODERS)).eval()
  tensors = {
    name: torch.from_numpy(tensor.copy())
    for name, tensor in masked_unet.to_torch(params, config.motion_length)
  }
  model.load_state_dict(tensors)
  return model


def predictions(config, with_objects):
  graphdef, params = shaken(config)
  x, t, condition = inputs(config, with_objects)
  wanted = jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args))(
    params, x, t, condition
  )
  model = theirs(config, params)
  with torch.no_grad():
    got = model(parity.channels_first(x), torch.from_numpy(t), parity.condition(condition))
  assert got.dtype == torch.float32
  return parity.channels_last(got), np.asarray(wanted)


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(name, marks=() if name in ('stage 1', 'stage 2') else pytest.mark.slow)
    for name in CASES
  ],
)
def test_it_predicts_what_ours_does(case):
  got, wanted = predictions(*CASES[case])
  assert wanted.std() > 0.05
  drift = parity.drift(got, wanted)
  print(f'{case}: {drift:.1e}')
  assert drift < 1e-4


def test_masks_and_prompts_reach_it():
  config = CASES['stage 2'][0]
  model = theirs(config, shaken(config)[1])
  x, t, condition = inputs(config, True)
  x, t = parity.channels_first(x), torch.from_numpy(t)
  changed = inputs(config, True, seed=1)[2]
  one = parity.condition(condition)
  with torch.no_grad():
    first = model(x, t, one)
    for objects in (
      one.objects._replace(token_masks=parity.condition(changed).objects.token_masks),
      one.objects._replace(prompts=parity.condition(changed).objects.prompts),
    ):
      assert parity.drift(model(x, t, one._replace(objects=objects)), first) > 1e-3


def test_chunks_and_bfloat16_stay_near(capsys):
  config = CASES['stage 2'][0]
  _, params = shaken(config)
  model = theirs(config, params)
  x, t, condition = inputs(config, True)
  arguments = parity.channels_first(x), torch.from_numpy(t), parity.condition(condition)
  with torch.no_grad():
    exact = model(*arguments)
    model.attention = 'chunked'
    assert parity.drift(model(*arguments), exact) < 1e-5
    half = model.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    drift = parity.drift(half(*arguments), exact)
  with capsys.disabled():
    print(f'\nU-Net in bfloat16: relative difference {drift:.1e}')
  assert 1e-4 < drift < 0.1


def test_names_go_there_and_back():
  for name in ('stage 1', 'stage 2'):
    config = CASES[name][0]
    _, params = shaken(config)
    tensors = dict(masked_unet.to_torch(params, config.motion_length))
    specs = masked_unet.specs(params, config.motion_length)
    assert [(name, x.shape) for name, x in tensors.items()] == specs
    values = masked_unet.config_to_torch(config, ENCODERS)
    assert masked_unet.config_from_torch(Weights(Path('there'), values, tensors)) == (
      dataclasses.replace(config, dtype='bfloat16', remat='full'),
      ENCODERS,
    )
    back = masked_unet.from_torch(Weights('there', {}, tensors), params)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: t.pop('conv_out.bias'), 'conv_out.bias is missing'),
    (lambda t: t.update({'conv_in.weight': t['conv_in.weight'][:, 1:]}), 'the model needs'),
    (lambda t: t.update(extra=t['conv_out.bias']), 'extra has no place'),
    (lambda t: t.update({k: v + 1 for k, v in t.items() if 'pe' in k[-2:]}), 'not the sinusoid'),
  ],
)
def test_weights_that_are_not_its_own_are_refused(change, message):
  _, params = shaken(STAGE2)
  tensors = dict(masked_unet.to_torch(params, STAGE2.motion_length))
  change(tensors)
  with pytest.raises(InputError, match=message):
    masked_unet.from_torch(Weights('there', {}, tensors), params)


def test_what_is_shared_loads_into_diffusers_unchanged(tmp_path):
  """A network without masked layers is a `UNetMotionModel`, also in a folder."""
  config = dataclasses.replace(DEEP, masked_blocks=0)
  encoders = {'clip': TextEncoderSpec(config.text_width, 5, 5)}
  _, params = shaken(config, encoders)
  from ttm_jax.pytorch.unet import TTMUNet

  ours = TTMUNet(**masked_unet.config_to_torch(config, encoders)).eval()
  tensors = dict(masked_unet.to_torch(params, config.motion_length))
  ours.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in tensors.items()})
  ours.save_pretrained(tmp_path)
  other, info = diffusers.UNetMotionModel.from_pretrained(tmp_path, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  x, t, condition = inputs(config, False)
  text = condition.text['clip.l'].embedding
  condition = Condition({'clip': caption_tokens(text, np.full(2, 5))}, condition.visual)
  with torch.no_grad():
    one = ours(parity.channels_first(x), torch.from_numpy(t), parity.condition(condition))
    sample = parity.channels_first(np.concatenate([x, condition.visual], -1))
    frames = torch.from_numpy(text).repeat_interleave(FRAMES, 0)
    two = other(sample, torch.from_numpy(t), frames).sample
  assert parity.drift(one, two) < 1e-5


def test_what_does_not_fit_is_refused():
  model = theirs(STAGE2, shaken(STAGE2)[1])
  x, t, condition = inputs(STAGE2, True)
  x, t, condition = parity.channels_first(x), torch.from_numpy(t), parity.condition(condition)
  for latents, message in (
    (x[..., :-1], 'cannot be halved'),
    (x[:, :2], 'takes 3 channels'),
    (x.repeat_interleave(3, 2), 'exceed the 6'),
  ):
    with pytest.raises(ValueError, match=message):
      model(latents, t, condition)
  with pytest.raises(ValueError, match='masked_scope must be one of'):
    type(model)(encoders=[], masked_scope='all')
