"""Malicious datasets: they run no code, lead to no other file and do not exhaust memory."""

import json
import os
import shutil
import sys
import zlib

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import encode, show
from tests.helpers import tiny
from tests.helpers.hostile import (
  MIB,
  change,
  change_feature,
  change_split,
  fails,
  peak,
  record_of,
)
from ttm_jax.data import chunks, clips, records
from ttm_jax.data.context import read_encoding
from ttm_jax.data.latents import Latents
from ttm_jax.data.packed_ids import decode_ids, encode_ids
from ttm_jax.errors import InputError
from ttm_jax.media import video_io
from ttm_jax.training.denoising import Denoising

# Code execution.


@pytest.fixture
def planted(tmp_path, monkeypatch):
  """Put a module into the current folder that leaves a file when it is imported."""
  place = tmp_path / 'cwd'
  place.mkdir()
  monkeypatch.chdir(place)
  monkeypatch.syspath_prepend(str(place))
  (place / 'planted.py').write_text(
    'import pathlib, tensorflow_datasets as tfds\n'
    f'pathlib.Path({str(place)!r}, "ran").touch()\n'
    'class Planted(tfds.features.Text):\n'
    '  pass\n'
  )
  yield place
  assert not (place / 'ran').exists()
  assert 'planted' not in sys.modules


PLANTED = {'pythonClassName': 'planted.Planted', 'text': {}}
NESTED = {
  'pythonClassName': 'tensorflow_datasets.core.features.sequence_feature.Sequence',
  'sequence': {'feature': PLANTED, 'length': '-1'},
}


@pytest.mark.parametrize('feature', [PLANTED, NESTED], ids=['plain', 'nested'])
def test_a_class_that_features_name_does_not_run(
  dataset, encoded, planted, feature, capsys, monkeypatch
):
  for folder in (dataset, encoded):
    change_feature(folder, 'key', feature)
  # For clips all features are known; for latents only the sizes are read.
  show.main([str(dataset), '0'])
  assert 'scene-0-0' in capsys.readouterr().out
  refusal = "features.json: a feature is of the class 'planted.Planted'; only"
  assert refusal in fails(capsys, monkeypatch, show, encoded, 0)
  with pytest.raises(InputError, match='code that a dataset names is not run'):
    Latents(encoded, 'train')
  out = planted / 'out'
  monkeypatch.setattr(
    sys, 'argv', ['x', f'--clips={dataset}', f'--out={out}', '--codec=linear:2x4x4x6']
  )
  encode.main()
  assert len(Latents(out, 'train')) == 2


def test_a_module_that_the_description_names_does_not_run(dataset, planted, capsys):
  change(
    dataset / 'dataset_info.json', moduleName='planted', redirectOriginal='x', location=str(planted)
  )
  for name in ('clips.py', 'planted.py', '__init__.py'):
    (dataset / name).write_text((planted / 'planted.py').read_text())
  assert len(clips.Clips(dataset, 'train')) == 2
  show.main([str(dataset), '0'])


def test_the_loader_of_training_runs_nothing(latents, tmp_path, planted):
  shutil.copytree(latents, tmp_path / 'latents')
  run = Denoising(tiny.shrunk('demo_stage1', tmp_path / 'latents'))
  assert next(run.batches('train', 0))['video'].shape[0] == 4
  change_feature(tmp_path / 'latents', 'token_masks.0.box', PLANTED)
  with pytest.raises(InputError, match=r"of the class 'planted\.Planted'"):
    run.batches('train', 0)


# Names and paths.


@pytest.mark.parametrize(
  'template',
  [
    '../clips/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}',
    '/etc/passwd',
    'gs://bucket/x',
    'a/b',
    '..',
    '',
    'a\0b',
    '{DATASET.__class__}',
    '{UNKNOWN}',
    7,
  ],
)
def test_shards_lie_in_the_folder(dataset, template):
  change_split(dataset, filepathTemplate=template)
  with pytest.raises(InputError, match=r'dataset_info.json: |missing from the data set'):
    records.Records(dataset, 'train')


def test_a_dataset_cannot_name_another_by_its_split(dataset):
  change_split(dataset, name='../../etc/x')
  with pytest.raises(InputError, match='not a file of the folder itself'):
    records.splits(dataset)


def test_encoders_have_plain_names(encoded):
  file = encoded / 'context' / 'context.json'
  values = json.loads(file.read_text())
  values['encoders'] = {'../../../home': values['encoders']['words']}
  file.write_text(json.dumps(values))
  with pytest.raises(InputError, match=r"a text encoder is called '\.\./\.\./\.\./home'"):
    read_encoding(encoded)


def test_a_pipe_is_not_waited_for(dataset):
  for name in ('metadata.json', 'dataset_info.json'):
    (dataset / name).unlink(missing_ok=True)
    os.mkfifo(dataset / name)
    with pytest.raises(InputError, match=f'{name}: not a file'):
      records.Records(dataset, 'train')


# Sizes.


def test_videos_stop_where_their_record_ends(dataset):
  frame = np.zeros((1, 2048, 2048, 3), np.uint8)
  large = video_io.encode_video(np.repeat(frame, 40, 0), 8)
  assert len(large) < 2 * MIB < np.prod((40, 2048, 2048, 3)) // 200
  many = video_io.encode_video(np.zeros((5, 16, 16, 3), np.uint8), 8)
  few = video_io.encode_video(np.zeros((3, 16, 16, 3), np.uint8), 8)
  before = peak()
  for video, complaint in (
    (large, 'not an encoded video'),
    (many, r'not of \(4, 16, 16\).*frame 4'),
    (few, 'holds 3 frames, not 4'),
  ):
    with pytest.raises(InputError, match=f'record 0 is damaged .*{complaint}'):
      clips.Clips(folder := record_of(dataset, video=video), 'train')[0]
    for file in folder.iterdir():
      file.unlink()
    folder.rmdir()
  with pytest.raises(InputError, match='frame 0 has 2048 x 2048'):
    video_io.decode_video(large, (40, 2040, 2040))
  assert peak() - before < 200 * MIB


def test_label_maps_stop_where_their_record_ends():
  bomb = zlib.compress(bytes(400 * MIB), 9)
  before = peak()
  with pytest.raises(InputError, match=r'not label maps of \(4, 16, 16\) \(they hold more\)'):
    decode_ids(bomb, (4, 16, 16))
  assert peak() - before < 50 * MIB
  whole = encode_ids(np.ones((4, 16, 16), np.uint8))
  with pytest.raises(InputError, match='they hold fewer'):
    decode_ids(whole, (5, 16, 16))
  with pytest.raises(InputError, match='not label maps'):
    decode_ids(whole[:-2], (4, 16, 16))


@pytest.mark.parametrize(
  'shape, complaint',
  [
    ((2**30, 2**30, 2**30), 'take more than 4294967296 bytes'),
    ((2000, 1000, 1000), 'take more than 4294967296 bytes'),
    ((-4, -16, 16), 'hold nothing'),
    ((0, 16, 16), 'hold nothing'),
  ],
)
def test_the_shape_of_a_record_has_bounds(dataset, shape, complaint):
  folder = record_of(dataset, shape=np.array(shape, np.int32))
  with pytest.raises(InputError, match=f'record 0 is damaged .*{complaint}'):
    clips.Clips(folder, 'train')[0]


def test_texts_are_padded_to_what_the_context_says(encoded):
  stated = json.loads((encoded / 'metadata.json').read_text())['padded']
  assert stated['text.words.caption'] == [20]

  def refused(complaint, **padded):
    change(encoded / 'metadata.json', padded=stated | padded)
    with pytest.raises(InputError, match=complaint):
      Latents(encoded, 'train')

  refused('more than 1073741824 bytes', **{'text.words.caption': [2**30]})
  refused(r'shape \[21\], but its context says \[20\]', **{'text.words.caption': [21]})
  refused(r'shape \[4, 7\], but records have', **{'text.words.prompts': [4, 7]})
  refused('not a shape', **{'text.words.caption': [-1]})
  refused('not a shape', **{'text.words.caption': '20'})
  refused('does not have the texts', **{'text.others.caption': [20]})
  # Sizes are limited even if the context of a dataset is missing.
  (encoded / 'context' / 'context.json').unlink()
  refused('more than 1073741824 bytes', **{'text.words.caption': [2**31 - 1]})


@pytest.mark.parametrize('count', [-1, 21, 2**31 - 1, 3])
def test_counts_of_tokens_fit_their_text(encoded, count):
  source = Latents(encoded, 'train')
  record = {**source.record(0), 'text.words.caption_length': np.asarray(count, np.int32)}
  record['text.words.caption'] = record['text.words.caption'][:5]
  folder = encoded.with_name('counts')
  records.write(
    folder,
    'latents',
    '2.0.0',
    dict(source.records.features),
    {'train': [('a', record)]},
    source.records.metadata,
  )
  with pytest.raises(InputError, match=r'record 0 .*text.words.caption has 5 tokens, not'):
    Latents(folder, 'train').stored[0]


def test_a_record_without_a_field(encoded):
  source = Latents(encoded, 'train')
  record = source.record(0)
  features = {name: f for name, f in source.records.features.items() if name != 'video'}
  folder = encoded.with_name('fields')
  del record['video']
  records.write(
    folder, 'latents', '2.0.0', features, {'train': [('a', record)]}, source.records.metadata
  )
  (folder / 'features.json').write_text((encoded / 'features.json').read_text())
  with pytest.raises(InputError, match=r'record 0 .*it has no video'):
    Latents(folder, 'train')[0]


@pytest.mark.parametrize(
  'value',
  [
    tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[3])),
    tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[b'abcd', b'efgh'])),
    tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[b'abc'])),
    tf_feature_pb2.Feature(),
  ],
  ids=['number', 'several', 'short', 'empty'],
)
def test_a_field_of_another_kind(encoded, value):
  record = tf_example_pb2.Example.FromString(raw(encoded))
  record.features.feature['text.words.caption'].CopyFrom(value)
  rewrite(encoded, record.SerializeToString())
  with pytest.raises(InputError, match='record 0 of split "train" cannot be read'):
    Latents(encoded, 'train')[0]


def test_a_record_that_ends_anywhere(encoded):
  whole = raw(encoded)
  for size in range(0, len(whole), 37):
    rewrite(encoded, whole[:size])
    with pytest.raises(InputError, match='record 0 of split "train" cannot be read'):
      Latents(encoded, 'train')[0]


def raw(folder):
  """Return the bytes of the first record of a dataset."""
  return records.Records(folder, 'train').take(0, bytes)


def rewrite(folder, record):
  """Replace the records of a dataset by a single one."""
  (shard,) = folder.glob('*array_record*')
  writer = ArrayRecordWriter(str(shard), 'group_size:1,uncompressed')
  writer.write(record)
  writer.close()
  change_split(folder, shardLengths=['1'])


def test_compressed_records_may_grow_only_so_much(tmp_path):
  path = tmp_path / 'x.array_record'

  def write(*sizes):
    writer = ArrayRecordWriter(str(path), 'group_size:1,zstd:3')
    for size in sizes:
      writer.write(random.bytes(size // 1000) + bytes(size - size // 1000))
    writer.close()

  random = np.random.default_rng(0)
  write(5, 70_000, 60 * MIB, 0, 131_072, 7)
  chunks.check_growth(str(path))
  write(5, 70_000, 300 * MIB, 7)
  assert path.stat().st_size < 2 * MIB
  before = peak()
  with pytest.raises(ValueError, match=r'bytes would become 314\d{6}'):
    chunks.check_growth(str(path))
  assert peak() - before < 20 * MIB


@pytest.mark.parametrize('many', [1, 700])
def test_compressed_clips_of_other_writers_are_read(dataset, many):
  """TFDS compresses by default, with blocks that end within chunks."""
  (shard,) = dataset.glob('*array_record*')
  serialized = [
    clips.Clips(dataset, 'train').records.take(index % 2, bytes) for index in range(many)
  ]
  writer = ArrayRecordWriter(str(shard), 'group_size:1')
  for record in serialized:
    writer.write(record)
  writer.close()
  change_split(dataset, shardLengths=[str(many)])
  found = clips.Clips(dataset, 'train')
  assert [found[i].key for i in range(many)] == [f'scene-0-{i % 2}' for i in range(many)]


def test_a_bomb_of_a_shard_is_named(dataset, capsys, monkeypatch):
  (shard,) = dataset.glob('*array_record*')
  writer = ArrayRecordWriter(str(shard), 'group_size:1')
  writer.write(bytes(300 * MIB))
  writer.write(bytes(5))
  writer.close()
  part = dataset / 'part.array_record'
  shutil.copy(shard, part)
  before = peak()
  assert 'would become 314572800' in fails(capsys, monkeypatch, show, dataset, 0)
  assert 'cannot be read' in fails(capsys, monkeypatch, show, part, 0)
  assert peak() - before < 20 * MIB
