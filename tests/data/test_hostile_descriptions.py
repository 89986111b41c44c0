"""Damaged and malicious descriptions, contexts and keys of datasets: one sentence each."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import show
from tests.helpers.hostile import SCENES, change, change_feature, fails, record_of
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data import clips, description, records
from ttm_jax.data.context import Context
from ttm_jax.errors import InputError
from ttm_jax.scenes import generator as scenes

# Dataset descriptions.

DEEP = '[' * 10_000 + ']' * 10_000
DAMAGE = {
  'deep': '{"a": ' + DEEP + '}',
  'list': '[1]',
  'empty': '',
  'truncated': '{"a": ',
  'binary': '\x00\x01\x02',
  'surrogate': '{"name": "\\ud800"}',
  'digits': '{"a": ' + '9' * 5000 + '}',
}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize(
  'name',
  ['dataset_info.json', 'features.json', 'metadata.json', 'context/context.json',
   'context/codec/codec.json'],
)  # fmt: skip
def test_damaged_descriptions_are_one_sentence(encoded, name, damage, capsys, monkeypatch):
  if name == 'metadata.json' and damage == 'empty':
    pytest.skip('a dataset need not have metadata')
  (encoded / name).write_text(DAMAGE[damage])
  sentence = fails(capsys, monkeypatch, show, encoded, 0, f'--out={encoded.parent}/a.mp4')
  assert name in sentence or 'context is damaged' in sentence
  assert (sentence.count('\n') <= 1 and sentence.isprintable()) or sentence.endswith('\n')


@pytest.mark.parametrize(
  'values',
  [
    {'name': 3},
    {'name': ''},
    {'version': '1'},
    {'version': None},
    {'version': '9' * 400 + '.0.0'},
    {'fileFormat': 'tfrecord'},
    {'fileFormat': ['array_record']},
    {'splits': {}},
    {'splits': []},
    {'splits': [3]},
    {'splits': [{'name': 'train', 'shardLengths': 'abc'}]},
    {'splits': [{'name': 'train', 'shardLengths': ['-1']}]},
    {'splits': [{'name': 'train', 'shardLengths': ['9' * 30]}]},
    {'splits': [{'name': 'train', 'shardLengths': [10**30]}]},
    {'splits': [{'name': 'train', 'shardLengths': [True]}]},
    {'splits': [{'name': 'train', 'shardLengths': []}]},
    {'splits': [{'name': 'train'}, {'name': 'train'}]},
  ],
)
def test_fields_of_the_description(dataset, values):
  change(dataset / 'dataset_info.json', **values)
  with pytest.raises(InputError, match='clips'):
    records.Records(dataset, 'train')


@pytest.mark.parametrize(
  'feature',
  [
    {'pythonClassName': 'os.system'},
    {'pythonClassName': ['x']},
    {},
    [],
    {'pythonClassName': 'tensorflow_datasets.core.features.image_feature.Image'},
  ],
)
def test_features_of_other_classes(dataset, feature):
  change_feature(dataset, 'key', feature)
  with pytest.raises(InputError, match=r'features.json'):
    description.read_features(dataset)


@pytest.mark.parametrize(
  'tensor',
  [
    {'dtype': 'object', 'shape': {}},
    {'dtype': 'O', 'shape': {}},
    {'dtype': 'uint8', 'shape': {}, 'encoding': 'zlib'},
    {'dtype': 'uint8', 'shape': {'dimensions': ['-2']}},
    {'dtype': 'uint8', 'shape': {'dimensions': [10**40]}},
    {'dtype': 'uint8', 'shape': {'dimensions': [1] * 40}},
    {'dtype': 'uint8'},
    None,
  ],
)
def test_tensors_are_plain(dataset, tensor):
  kind = 'tensorflow_datasets.core.features.tensor_feature.Tensor'
  change_feature(dataset, 'key', {'pythonClassName': kind, 'tensor': tensor})
  with pytest.raises(InputError, match=r'features.json'):
    description.read_features(dataset)


@pytest.mark.parametrize('kind', ['dataset', 'encoded'])
def test_features_come_back_as_they_were_written(kind, request):
  def bare(entry):
    """Return the entry without descriptions, which are not read."""
    if not isinstance(entry, dict):
      return entry
    return {name: bare(value) for name, value in entry.items() if name != 'description'}

  folder = request.getfixturevalue(kind)
  found = json.loads(json.dumps(description.read_features(folder).to_json()))
  written = json.loads((folder / 'features.json').read_text())
  assert bare(found)['content'] == bare(written)['featuresDict']


@pytest.mark.parametrize(
  'values',
  [
    {'preset': 'ditt'},
    {'preset': ['dit']},
    {'palette': 'x'},
    {'frames': 0},
    {'frames': '4'},
    {'frames': True},
    {'height': 10**9, 'width': 10**9},
    {'fps': float('nan')},
    {'fps': -1},
    {'fps': '8'},
    {'max_objects': 32},
    {'max_objects': -1},
    {'encoders': {'words': {'dim': 8, 'length': 10**12, 'prompt_length': 7}}},
    {'encoders': {'words': {'dim': 8, 'length': 20.0, 'prompt_length': 7}}},
    {'encoders': {'words': 3}},
    {'encoders': {'': {'dim': 8, 'length': 20, 'prompt_length': 7}}},
    {'encoders': {'a\nb': {'dim': 8, 'length': 20, 'prompt_length': 7}}},
    {'models': {'t5': ['x']}},
    {'models': 3},
    {'prefix': None},
    {'height': 18},
    {'max_objects': 2},
  ],
)
def test_values_of_a_context(encoded, values):
  change(encoded / 'context' / 'context.json', **values)
  with pytest.raises(InputError, match='latents/context is damaged'):
    Context.load(encoded)


def test_an_empty_text_of_another_size(encoded):
  file = encoded / 'context' / 'null_text.safetensors'
  arrays = safetensors.numpy.load_file(file)
  for changed in (
    {name: a for name, a in arrays.items() if 'caption' not in name},
    arrays | {'text.words.prompts': arrays['text.words.prompts'][:, :2]},
    arrays | {'text.words.motion': arrays['text.words.motion'][:, :-1]},
  ):
    safetensors.numpy.save_file({k: np.ascontiguousarray(a) for k, a in changed.items()}, file)
    with pytest.raises(InputError, match=r'context is damaged .*text.words'):
      Context.load(encoded)


@pytest.mark.parametrize(
  'kind, config',
  [
    ('linear', {'patch': [0, 4, 4], 'channels': 6, 'explained': 1.0, 'psnr': 1.0}),
    ('linear', {'patch': [2, 4], 'channels': 6, 'explained': 1.0, 'psnr': 1.0}),
    ('linear', {'patch': [2, 4, 4], 'channels': 6, 'explained': 'x', 'psnr': 1.0}),
    ('linear', {'patch': [2, 4, 4], 'channels': 10**30, 'explained': 1.0, 'psnr': 1.0}),
    ('tae', {'res_blocks': 10**9}),
    ('tae', {'multipliers': [1] * 10**5}),
    ('tae', {'multipliers': []}),
    ('tae', {'multipliers': [[1]]}),
    ('tae', {'base_channels': -8}),
    ('tae', {'dtype': 'O'}),
    ('sd_vae', {'res_blocks': 10**9}),
    ('sd_vae', []),
    ('wan21_vae', {'res_blocks': 10**9}),
    ('wan21_vae', {'std': [0.0] * 16}),
    ('wan21_vae', {'multipliers': [0, 0, 0]}),
    ('wan22_vae', {'patch': 0}),
    ('wan22_vae', {'channels': 2**20}),
    ('wan22_vae', {'tile': 'large'}),
    (['tae'], {}),
  ],
)
def test_configurations_of_codecs(tmp_path, kind, config):
  some = [clip.video for clip in scenes.Scenes(SCENES, 2)]
  save_codec(tmp_path / 'codec', LinearCodec.fit(some, (2, 4, 4), 6))
  (tmp_path / 'codec' / 'codec.json').write_text(json.dumps({'kind': kind, 'config': config}))
  with pytest.raises(InputError, match=r'codec.json'):
    load_codec(tmp_path / 'codec')


def test_damaged_records_of_a_part(tmp_path, capsys, monkeypatch):
  file = tmp_path / 'x.array_record'
  writer = ArrayRecordWriter(str(file), 'group_size:1,uncompressed')
  writer.write(b'no record')
  writer.close()
  assert 'record 0 cannot be read' in fails(capsys, monkeypatch, show, file, 0)


# Record keys.


@pytest.mark.parametrize(
  'key, file',
  [
    ('\x1b]0;owned\x07\x1b[2J', '_]0;owned__[2J.mp4'),
    ('../../x', '_.._x.mp4'),
    ('a\nerror: fake', 'a_error: fake.mp4'),
    ('nul\0', 'nul_.mp4'),
    ('-rf', 'rf.mp4'),
    ('é' * 300, 'é' * 100 + '.mp4'),
  ],
)
def test_keys_do_not_reach_the_terminal_or_the_disk(tmp_path, key, file, capsys, monkeypatch):
  clip = dataclasses.replace(scenes.scene(SCENES, 0), key=key, caption='say \x1b[31m\nred')
  clips.write_clips(tmp_path / 'clips', {'train': [clip]})
  place = tmp_path / 'cwd'
  place.mkdir()
  monkeypatch.chdir(place)
  assert clips.Clips(tmp_path / 'clips', 'train')[0].key == key
  for written in (file, file.replace('.mp4', '-1.mp4')):  # Existing files are kept.
    show.main([str(tmp_path / 'clips'), '0'])
    said = capsys.readouterr().out
    assert 'caption  say \\x1b[31m\\nred\n' in said
    assert said.replace('\n', '').isprintable() and said.splitlines()[-1] == written
    assert (place / written).is_file()
  assert len(list(place.iterdir())) == 2


def test_surrogates_are_refused(tmp_path):
  clip = scenes.scene(SCENES, 0)
  for field, value in (('key', 'a\ud800'), ('caption', '\udfff'), ('prompts', ('\ud800', 'b'))):
    with pytest.raises(InputError, match='is not valid Unicode'):
      dataclasses.replace(clip, **{field: value})


def test_texts_that_are_not_unicode(dataset, capsys, monkeypatch):
  folder = record_of(dataset, caption=b'\xff\xfe')
  with pytest.raises(InputError, match=r'record 0 is damaged .*not UTF-8'):
    clips.Clips(folder, 'train')[0]
  assert 'record 0 is damaged' in fails(capsys, monkeypatch, show, folder, 0)


def test_show_writes_nothing_into_the_dataset(dataset, capsys, monkeypatch):
  (shard,) = dataset.glob('*array_record*')
  before = shard.read_bytes()
  assert 'is inside the dataset' in fails(capsys, monkeypatch, show, shard, 0, f'--out={shard}')
  assert shard.read_bytes() == before
