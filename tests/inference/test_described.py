"""Files that describe an image are validated before use."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from ttm_jax.errors import InputError
from ttm_jax.inference.image_description import Described, Embeddings


@pytest.fixture
def saved(tmp_path):
  rows = {('A dog.', 4): (np.ones((4, 6), np.float16), 3)}
  path = tmp_path / 'd.safetensors'
  Described(
    np.zeros((8, 9, 3), np.uint8),
    np.ones((8, 9), np.uint8),
    'A dog.',
    'It runs.',
    {1: 'dog'},
    {1: 'a dog'},
    {'t5': Embeddings('t5', 'x/t5', rows)},
  ).save(path)
  return path


def changed(path, tensors=None, **said):
  """Write the file again with other tensors and metadata."""
  with safetensors.safe_open(path, 'numpy') as file:
    metadata = file.metadata()
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  content = json.loads(metadata['ttm_jax.described']) | said
  text = json.dumps(content)
  safetensors.numpy.save_file(arrays | (tensors or {}), path, {'ttm_jax.described': text})


def test_what_is_written_comes_back(saved):
  back = Described.load(saved)
  assert back.prompts == {1: 'a dog'} and back.texts['t5'](['A dog.'], 4)[1].tolist() == [3]
  assert [p.name for p in saved.parent.iterdir()] == ['d.safetensors']


E, HUGE = 'text.t5.4', 10**9


@pytest.mark.parametrize(
  'tensors, said, why',
  [
    ({'picture': np.zeros((8, 9), np.uint8)}, {}, r'picture is uint8 \[8, 9\]'),
    ({'picture': np.zeros((8, 9, 4), np.uint8)}, {}, r'picture is uint8 \[8, 9, 4\]'),
    ({'picture': np.zeros((8, 9, 3), np.float32)}, {}, 'picture is float32'),
    ({'picture': np.zeros((HUGE, 0, 3), np.uint8)}, {}, r'picture is uint8 \[1000000000, 0, 3\]'),
    ({'segmentation': np.zeros((8, 9), np.int64)}, {}, 'segmentation is int64'),
    ({'segmentation': np.zeros((9, 8), np.uint8)}, {}, 'the mask is 8 x 9'),
    ({E: np.ones((1, 3, 6), np.float16)}, {}, r'text\.t5\.4 has the shape \[1, 3, 6\]'),
    ({E: np.ones((1, 4), np.float16)}, {}, r'text\.t5\.4 has the shape'),
    ({E: np.ones((2, 4, 6), np.float16)}, {}, r'zip\(\)'),
    ({E: np.full((1, 4, 6), np.nan, np.float16)}, {}, 'must hold finite floats only'),
    ({E: np.ones((1, 4, 6), np.int32)}, {}, 'must hold finite floats only'),
    ({f'{E}.counts': np.array([5], np.int32)}, {}, 'has no 5 tokens'),
    ({f'{E}.counts': np.array([-1], np.int32)}, {}, 'has no -1 tokens'),
    ({f'{E}.counts': np.array([[3]], np.int32)}, {}, 'counts has the shape'),
    (
      {f'text.t5.{HUGE}': np.ones((1, HUGE, 0), np.float16), f'text.t5.{HUGE}.counts': np.ones(1)},
      {'encoders': {'t5': {'model': 'x', 'texts': {str(HUGE): ['A dog.']}}}},
      r'has the shape \[1, 1000000000, 0\]',
    ),
    ({}, {'encoders': {'t5': {'model': 'x', 'texts': {'9' * 5000: ['A dog.']}}}}, 'damaged'),
    ({}, {'caption': 3}, "'3' is not a text"),
    ({}, {'motion': None}, "'None' is not a text"),
    ({}, {'prompts': {'1': ['a']}}, 'is not a text'),
    ({}, {'prompts': {'one': 'a'}}, 'damaged'),
    ({}, {'names': []}, 'damaged'),
    ({}, {'version': 2}, 'version 2, this program reads 1'),
  ],
)
def test_claims_are_checked(saved, tensors, said, why):
  changed(saved, tensors, **said)
  with pytest.raises(InputError, match=why):
    Described.load(saved)


def test_nested_metadata(saved):
  with safetensors.safe_open(saved, 'numpy') as file:
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  for text in ('[' * 20_000 + ']' * 20_000, '[]', '"x"', '{', 'null'):
    safetensors.numpy.save_file(arrays, saved, {'ttm_jax.described': text})
    with pytest.raises(InputError, match='damaged'):
      Described.load(saved)


def test_a_dtype_that_numpy_does_not_have(saved):
  content = saved.read_bytes()
  length = int.from_bytes(content[:8], 'little')
  header = content[8 : 8 + length].replace(b'"F16"', b'"BF16"').rstrip()
  saved.write_bytes(len(header).to_bytes(8, 'little') + header + content[8 + length :])
  with pytest.raises(InputError, match=r'not a complete safetensors file|damaged'):
    Described.load(saved)
