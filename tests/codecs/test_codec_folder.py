"""Codec folders: round trips, and errors that name the fault."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from tests.helpers import small_wan_vae
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.codecs.tae import TAE, TAEConfig
from ttm_jax.errors import InputError


def linear(seed=0):
  clips = np.random.default_rng(seed).integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8)
  return LinearCodec.fit(clips, (2, 4, 4), channels=6)


def tae():
  config = TAEConfig(
    channels=4, base_channels=8, multipliers=(1, 2), res_blocks=1, temporal_downsamples=1
  )
  codec = TAE(config, rngs=nnx.Rngs(jax.random.key(3, impl='unsafe_rbg')))
  codec.shift[...] += 0.5
  return codec


def wan21():
  return small_wan_vae.drawn(small_wan_vae.CONFIGS['wan21_vae'])


def wan22():
  return small_wan_vae.drawn(small_wan_vae.CONFIGS['wan22_vae'])


@pytest.mark.parametrize('make', [linear, tae, wan21, wan22])
def test_a_codec_comes_back_as_it_was(tmp_path, make):
  codec = make()
  save_codec(tmp_path / 'a' / 'codec', codec)
  again = load_codec(tmp_path / 'a' / 'codec')
  assert jax.tree.structure(codec) == jax.tree.structure(again)
  for ours, theirs in zip(jax.tree.leaves(codec), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == ['codec']


def test_saving_replaces_a_codec_whole_but_nothing_else(tmp_path):
  path = tmp_path / 'codec'
  save_codec(path, tae())
  save_codec(path, linear(1))
  np.testing.assert_array_equal(load_codec(path).basis, linear(1).basis)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['codec']
  (tmp_path / 'holiday').mkdir()
  (tmp_path / 'holiday' / 'photo').write_text('precious')
  with pytest.raises(InputError, match='holiday exists and is not a codec folder'):
    save_codec(tmp_path / 'holiday', linear())
  assert (tmp_path / 'holiday' / 'photo').read_text() == 'precious'


def test_a_failed_save_leaves_the_old_codec(tmp_path, monkeypatch):
  path = tmp_path / 'codec'
  save_codec(path, linear())

  def full_disk(*args):
    raise OSError('no space left')

  monkeypatch.setattr(safetensors.numpy, 'save_file', full_disk)
  with pytest.raises(OSError, match='no space'):
    save_codec(path, linear(1))
  np.testing.assert_array_equal(load_codec(path).basis, linear().basis)
  assert [p.name for p in tmp_path.iterdir()] == ['codec']


def with_tensors(change):
  def spoil(path):
    tensors = safetensors.numpy.load_file(path / 'codec.safetensors')
    change(tensors)
    safetensors.numpy.save_file(tensors, path / 'codec.safetensors')

  return spoil


def with_description(**values):
  def spoil(path):
    description = json.loads((path / 'codec.json').read_text()) | values
    (path / 'codec.json').write_text(json.dumps(description))

  return spoil


@pytest.mark.parametrize(
  'spoil, message',
  [
    (lambda p: (p / 'codec.json').unlink(), 'there is no codec.json'),
    (lambda p: (p / 'codec.json').write_text('{'), 'codec.json: not JSON'),
    (lambda p: (p / 'codec.json').write_text('[]'), 'must hold a JSON object'),
    (
      with_description(kind='linea'),
      r"unknown kind of codec 'linea' \(did you mean \"linear\"\?\); known are linear, tae",
    ),
    (with_description(config={'patch': [2, 4, 4]}), 'not a configuration of a linear codec'),
    (with_description(kind='tae'), 'not a configuration of a tae codec'),
    (lambda p: (p / 'codec.safetensors').unlink(), 'codec.safetensors is missing'),
    (lambda p: (p / 'codec.safetensors').write_bytes(b'abc'), 'not a complete safetensors file'),
    (with_tensors(lambda t: t.pop('mean')), 'lacks the tensor mean'),
    (with_tensors(lambda t: t.update(extra=t['mean'])), 'tensor extra has no place'),
    (
      with_tensors(lambda t: t.update(basis=t['basis'].T.copy())),
      r'tensor basis is float32 \(6, 96\), but codec.json beside it asks for float32 \(96, 6\)',
    ),
  ],
)
def test_what_is_wrong_is_named(tmp_path, spoil, message):
  save_codec(tmp_path, linear())
  spoil(tmp_path)
  with pytest.raises(InputError, match=message) as error:
    load_codec(tmp_path)
  assert str(tmp_path) in str(error.value)
