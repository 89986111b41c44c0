"""Datasets on disk: round trips, and errors that name the corruption."""

import pickle
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ttm_jax.data import clips, records
from ttm_jax.data.packed_ids import decode_ids, encode_ids
from ttm_jax.data.schema import VERSION, Clip
from ttm_jax.errors import InputError
from ttm_jax.scenes import generator as scenes

FEATURES = {
  'blob': tfds.features.Text(),
  'grid': tfds.features.Tensor(shape=(None, 3), dtype=np.float16, encoding='bytes'),
  'words': tfds.features.Sequence(tfds.features.Text()),
}


def examples(count):
  rng = np.random.default_rng(count)
  return [
    (
      f'key {i}',
      {
        'blob': rng.bytes(900),
        'grid': np.full((i % 4, 3), i / 8, np.float16),
        'words': ['wörd'] * (i % 3),
      },
    )
    for i in range(count)
  ]


def write(path, splits, version='1.2.0', **kwargs):
  records.write(path, 'things', version, FEATURES, splits, **kwargs)


def same(record, example):
  return (
    record['blob'] == example['blob']
    and np.array_equal(record['grid'], example['grid'])
    and [word.decode() for word in record['words']] == example['words']
  )


def test_records_come_back_in_order(tmp_path):
  write(tmp_path / 'd', {'train': examples(9), 'test': iter(examples(2))}, metadata={'a': [1, 'b']})
  source = records.Records(tmp_path / 'd', 'train', 'things', '1.9.0')
  assert [same(source[i], e) for i, (_, e) in enumerate(examples(9))] == [True] * 9
  assert source[5]['grid'].dtype == np.float16
  assert len(source) == 9 and len(records.Records(tmp_path / 'd', 'test')) == 2
  assert (source.name, source.version, source.metadata) == ('things', '1.2.0', {'a': [1, 'b']})
  for index in (9, -1):
    with pytest.raises(IndexError, match=f'no record {index}'):
      source[index]
  assert [p.name for p in tmp_path.iterdir()] == ['d']


def test_records_are_a_source_for_grain(tmp_path):
  write(tmp_path / 'd', {'train': examples(9)})
  source = records.Records(tmp_path / 'd', 'train')
  shuffled = grain.MapDataset.source(source).shuffle(seed=1)
  order = [int(r['grid'][0, 0] * 8) if len(r['grid']) else None for r in shuffled]
  assert sorted(i for i in order if i is not None) == [1, 2, 3, 5, 6, 7]
  assert order != sorted(order, key=lambda i: i or 0)
  pickled = pickle.dumps(source)
  assert len(pickled) < 300
  assert same(pickle.loads(pickled)[7], examples(9)[7][1])


def test_long_splits_are_sharded(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'EXAMPLES_PER_SHARD', 4)
  write(tmp_path / 'd', {'train': examples(10)})
  source = records.Records(tmp_path / 'd', 'train')
  assert all(same(source[i], e) for i, (_, e) in enumerate(examples(10)))
  shards = [source.file_of(i)[-5:] for i in range(10)]
  assert shards == ['00000'] * 4 + ['00001'] * 4 + ['00002'] * 2


def test_what_does_not_fit_is_refused(tmp_path):
  path = tmp_path / 'd'
  write(path, {'train': examples(2)})
  for args, complaint in [
    ((path, 'trian'), r'd: no split "trian" \(did you mean "train"\?\); there is train'),
    ((path, 'train', 'latents'), 'd: holds "things" records, not "latents"'),
    ((path, 'train', 'things', '2.0.0'), r'd: written as things 1\.2\.0, .* reads 2\.0\.0'),
    ((tmp_path / 'none', 'train'), r'none: not a data set'),
  ]:
    with pytest.raises(InputError, match=complaint):
      records.Records(*args)
  with pytest.raises(InputError, match='d: already in use'):
    write(path, {'train': examples(2)})
  with pytest.raises(InputError, match='split "train" has two records of key "key 0"'):
    write(tmp_path / 'e', {'train': examples(2) + examples(1)})
  with pytest.raises(InputError, match='split "test" would be empty'):
    write(tmp_path / 'e', {'train': examples(2), 'test': iter(())})
  assert [p.name for p in tmp_path.iterdir()] == ['d']


def test_an_interrupted_write_leaves_nothing(tmp_path):
  def interrupted():
    yield from examples(3)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write(tmp_path / 'd', {'train': interrupted()})
  assert list(tmp_path.iterdir()) == []
  stale = tmp_path / f'.d.{"0" * 32}.partial'  # Left behind by a killed run.
  stale.mkdir()
  (stale / 'stale').write_text('')
  (tmp_path / 'd').mkdir()
  write(tmp_path / 'd', {'train': examples(1)})
  assert same(records.Records(tmp_path / 'd', 'train')[0], examples(1)[0][1])
  assert [p.name for p in tmp_path.iterdir()] == ['d'] and not (tmp_path / 'd' / 'stale').exists()


def test_damage_is_never_read_as_data(tmp_path):
  write(tmp_path / 'd', {'train': examples(40)})
  shard = tmp_path / 'd' / 'things-train.array_record-00000'
  content = shard.read_bytes()
  good, named = 0, 0
  for place in range(1000, len(content), len(content) // 20):
    damaged = bytearray(content)
    damaged[place] ^= 0xFF
    shard.write_bytes(damaged)
    source = records.Records(tmp_path / 'd', 'train')
    for i, (_, example) in enumerate(examples(40)):
      try:
        assert same(source[i], example)
        good += 1
      except InputError as error:
        assert f'{shard}: record {i} of split "train" cannot be read' in str(error)
        assert 'copy or write the data set again' in str(error)
        named += 1
  assert named >= 5 and good >= 400


@pytest.mark.parametrize('kept', [0, 0.5, 0.99])
def test_truncated_shards_are_named(tmp_path, kept):
  write(tmp_path / 'd', {'train': examples(40)})
  shard = tmp_path / 'd' / 'things-train.array_record-00000'
  content = shard.read_bytes()
  shard.write_bytes(content[: int(kept * len(content))])
  with pytest.raises(InputError, match='array_record-00000: record 3 of split "train" cannot'):
    records.Records(tmp_path / 'd', 'train')[3]


def test_missing_shards_and_damaged_descriptions_are_named(tmp_path):
  write(tmp_path / 'd', {'train': examples(2)})
  (tmp_path / 'd' / 'things-train.array_record-00000').unlink()
  with pytest.raises(InputError, match='array_record-00000: missing from the data set'):
    records.Records(tmp_path / 'd', 'train')
  (tmp_path / 'd' / 'dataset_info.json').write_text('{')
  with pytest.raises(InputError, match=r'd/dataset_info\.json: not JSON .*; copy or write'):
    records.Records(tmp_path / 'd', 'train')


def strange_clip():
  rng = np.random.default_rng(0)
  return Clip(
    key='ünïque/0',
    video=rng.integers(0, 256, (3, 17, 31, 3)).astype(np.uint8),
    ids=rng.integers(0, 4, (3, 17, 31)).astype(np.uint8),
    fps=23.976,
    caption='Ein Bär läuft.',
    motion='The bear walks.',
    names=('bear', '', 'tree'),
    prompts=('a bear that walks', '', 'a tree'),
  )


def assert_same_clip(a, b):
  np.testing.assert_array_equal(a.video, b.video)
  np.testing.assert_array_equal(a.ids, b.ids)
  for field in ('key', 'fps', 'caption', 'motion', 'names', 'prompts'):
    assert getattr(a, field) == getattr(b, field)


def test_clips_come_back_exactly(tmp_path):
  config = scenes.SceneConfig(size=(24, 32))
  clips.write_clips(
    tmp_path / 'd',
    {'train': scenes.Scenes(config, 3), 'test': iter([strange_clip()])},
    metadata={'seed': 7},
  )
  train, test = (clips.Clips(tmp_path / 'd', split) for split in ('train', 'test'))
  for i, clip in enumerate(train):
    assert_same_clip(clip, scenes.scene(config, i))
  assert_same_clip(test[0], strange_clip())
  assert (len(train), train.records.metadata, train.records.version) == (3, {'seed': 7}, VERSION)


def test_workers_write_the_same_clips(tmp_path):
  config = scenes.SceneConfig(size=(16, 16), frames=2)
  clips.write_clips(tmp_path / 'd', {'train': scenes.Scenes(config, 5)}, workers=1)
  for i, clip in enumerate(clips.Clips(tmp_path / 'd', 'train')):
    assert_same_clip(clip, scenes.scene(config, i))


def test_label_maps_compress_well():
  ids = scenes.scene(scenes.SceneConfig(size=(64, 64), frames=16), 0).ids
  assert len(encode_ids(ids)) < ids.size / 25
  with pytest.raises(InputError, match=r'not label maps of \(2, 3, 3\)'):
    decode_ids(encode_ids(ids), (2, 3, 3))


def test_unfit_records_are_named(tmp_path):
  record = clips.encode_clip(strange_clip()) | {'video': b'no video'}
  records.write(tmp_path / 'd', clips.NAME, VERSION, clips.FEATURES, {'train': [('a', record)]})
  with pytest.raises(InputError, match=r'array_record-00000: record 0 is damaged .*8 bytes'):
    clips.Clips(tmp_path / 'd', 'train')[0]
  write(tmp_path / 'e', {'train': examples(1)})
  with pytest.raises(InputError, match='e: holds "things" records, not "clips"'):
    clips.Clips(tmp_path / 'e', 'train')


def test_reading_clips_needs_no_accelerator_library():
  code = 'import sys, ttm_jax.data.clips; print({"jax", "torch", "tensorflow"} & {*sys.modules})'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'set()'
