"""The fields of a serialized example: agreement with TFDS, and corruption."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ttm_jax.data.wire import bytes_fields


def serialized(**arrays):
  """Serialize as `records.ShardWriter` does."""
  features = tfds.features.FeaturesDict(
    {
      name: tfds.features.Tensor(shape=array.shape, dtype=array.dtype, encoding='bytes')
      for name, array in arrays.items()
    }
  )
  serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
  return serializer.serialize_example(features.encode_example(arrays)), features


@pytest.mark.parametrize('size', [1, 127, 128, 16_383, 16_384, 3_000_000])
def test_as_tfds_reads_them(size):
  rng = np.random.default_rng(size)
  arrays = {
    'video': rng.integers(0, 255, size, np.uint8),
    'latents': rng.normal(size=(2, 3)).astype(np.float16),
    'count': np.asarray(7, np.int32),
    'text.Wörter': np.zeros((2, 1), np.float32),
  }
  record, features = serialized(**arrays)
  theirs = features.deserialize_example_np(record)
  ours = bytes_fields(record)
  assert ours.keys() == theirs.keys()
  for name, field in ours.items():
    found = np.frombuffer(field, arrays[name].dtype).reshape(arrays[name].shape)
    np.testing.assert_array_equal(found, theirs[name])
    np.testing.assert_array_equal(found, arrays[name])


def test_nothing_is_copied():
  record, _ = serialized(a=np.arange(1000))
  assert bytes_fields(record)['a'].obj is record


def test_a_field_without_content():
  assert bytes_fields(b'\x0a\x0b\x0a\x09\x0a\x01a\x12\x04\x0a\x02\x0a\x00') == {'a': b''}


def test_damage_is_an_error_wherever_a_record_ends():
  record, _ = serialized(a=np.arange(200), b=np.asarray(1))
  for size in range(len(record)):
    with pytest.raises((ValueError, IndexError)):
      bytes_fields(record[:size])
  with pytest.raises(ValueError, match='an example of'):
    bytes_fields(record + b'\x0a')


def test_another_kind_of_field():
  features = tfds.features.FeaturesDict({'a': np.float32})
  serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
  with pytest.raises(ValueError, match='no field 1'):
    bytes_fields(serializer.serialize_example(features.encode_example({'a': 1.0})))
