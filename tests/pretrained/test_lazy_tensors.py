"""Tensors and parameters that are read when they are used: the right part, and no more."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ttm_jax.errors import InputError
from ttm_jax.pretrained import names
from ttm_jax.pretrained.names import Entry, import_parameters
from ttm_jax.pretrained.weights import WEIGHTS, StoredTensor, Weights, read

SHAPES = {  # Of one tensor in our layout.
  'same': (6,),
  'linear': (4, 6),
  'pointwise': (4, 6),
  'conv': (3, 3, 4, 6),
  'conv1d': (3, 4, 6),
  'row': (6, 4),
  'conv3d': (3, 3, 3, 4, 6),
  'pointwise3d': (4, 6),
  'scale2d': (6,),
  'scale3d': (6,),
}


def folder(path, tensors):
  path.mkdir(exist_ok=True)
  (path / 'config.json').write_text(json.dumps({}))
  safetensors.numpy.save_file(tensors, path / WEIGHTS)
  return path


class Watched:
  """A tensor that remembers how many values were read."""

  def __init__(self, array):
    self.array, self.shape, self.read = array, array.shape, 0

  def __getitem__(self, index):
    part = self.array[index]
    self.read += part.size
    return part

  def __array__(self, dtype=None, copy=None):
    self.read += self.array.size
    return self.array


@pytest.mark.parametrize('layout', SHAPES)
@pytest.mark.parametrize('kind', ['one', 'stacked', 'joined'])
def test_a_part_of_a_parameter_reads_a_part_of_its_tensors(layout, kind):
  rng = np.random.default_rng(0)
  ours = [rng.normal(size=SHAPES[layout]).astype(np.float32) for _ in range(3)]
  ours = ours[:1] if kind == 'one' else ours
  whole = {'one': lambda x: x[0], 'stacked': np.stack, 'joined': lambda x: np.concatenate(x, -1)}
  wanted = whole[kind](ours)
  theirs = [names.LAYOUTS[layout].theirs(x) for x in ours]
  names_ = tuple('abc'[: len(ours)])
  entry = Entry(('p',), names_, wanted.shape, layout, kind == 'stacked')
  assert {x.shape for x in theirs} == {entry.tensor_shape()}
  for cut in (slice(None), slice(1, 3), slice(2, 14), slice(5, 6)):
    watched = [Watched(x) for x in theirs]
    params = import_parameters(
      [entry], Weights('there', {}, dict(zip(names_, watched, strict=True)))
    )
    index = (*[slice(0, 2)] * (wanted.ndim - 1), cut)
    part = params['p'][index]
    np.testing.assert_array_equal(part, wanted[index])
    assert part.dtype == np.float32 and part.flags.c_contiguous
    assert sum(x.read for x in watched) == part.size
  np.testing.assert_array_equal(np.asarray(params['p']), wanted)
  assert (params['p'].shape, params['p'].ndim) == (wanted.shape, wanted.ndim)


def test_a_layout_without_parts_reads_one_tensor_whole(monkeypatch):
  odd = names.TensorLayout(lambda x: x[::-1], lambda x: x[::-1])
  monkeypatch.setitem(names.LAYOUTS, 'odd', odd)
  theirs = [Watched(np.arange(12, dtype=np.float32).reshape(3, 4) + i) for i in range(3)]
  entry = Entry(('p',), ('a', 'b', 'c'), (3, 3, 4), 'odd', True)
  part = entry.read(theirs, (slice(1, 2), slice(0, 1), slice(0, 2)))
  np.testing.assert_array_equal(part, [[[9, 10]]])
  assert [x.read for x in theirs] == [0, 12, 0]


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_slices_of_a_file_are_float32(tmp_path, dtype):
  array = np.random.default_rng(0).normal(size=(4, 5)).astype(dtype)
  tensors = {'w': array, 'scalar': np.array(3, dtype)}
  found = read(folder(tmp_path / 'm', tensors), half=True).tensors
  assert isinstance(found['w'], StoredTensor) and found['w'].shape == (4, 5)
  part = found['w'][1:3, 2:]
  np.testing.assert_array_equal(part, array[1:3, 2:].astype(np.float32))
  assert part.dtype == found['w'].dtype == np.asarray(found['w']).dtype == np.float32
  assert np.asarray(found['scalar']) == 3


def test_a_file_that_changes_after_it_was_checked(tmp_path):
  where = folder(tmp_path / 'm', {'w': np.ones((4, 5), np.float32)})
  tensor = read(where).tensors['w']
  (where / WEIGHTS).write_bytes((where / WEIGHTS).read_bytes()[:-4])
  with pytest.raises(InputError, match=r'is not a complete safetensors file .*copy it again'):
    np.asarray(tensor)
  safetensors.numpy.save_file({'v': np.ones(3, np.float32)}, where / WEIGHTS)
  with pytest.raises(InputError, match='is not a complete safetensors file'):
    np.asarray(tensor)
