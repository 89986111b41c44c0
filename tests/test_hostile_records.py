"""Datasets made by others: nothing in them runs, leads elsewhere, or fills the memory."""

import dataclasses
import json
import os
import resource
import shutil
import sys
import threading
import zlib

import numpy as np
import pytest
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter

pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")

from data_tools import compare_codecs, encode, make_scenes, show
from tests import tiny
from ttm_jax.codecs.folder import load_codec, save_codec
from ttm_jax.codecs.linear import LinearCodec
from ttm_jax.data import chunks, clips, description, records, scenes, video_io
from ttm_jax.data.context import Context, Encoding, read_encoding
from ttm_jax.data.encode import TEXT_ENCODERS, EncodedClips, null_text
from ttm_jax.data.latents import Latents, write_latents
from ttm_jax.data.schema import VERSION
from ttm_jax.errors import InputError
from ttm_jax.text.encoders import Encoder
from ttm_jax.training.denoising import Denoising

MIB = 2**20
SCENES = scenes.SceneConfig(size=(16, 16), frames=4, min_objects=2, max_objects=2)


@pytest.fixture
def dataset(tmp_path):
  """Two clips."""
  clips.write_clips(tmp_path / 'clips', {'train': scenes.Scenes(SCENES, 2)})
  return tmp_path / 'clips'


@pytest.fixture
def encoded(tmp_path):
  """The same as latents, with their context."""
  some = scenes.Scenes(SCENES, 2)
  codec = LinearCodec.fit([clip.video for clip in some], (2, 4, 4), 6)
  encoding = Encoding('dit', 4, 16, 16, 8.0, 'spread8', 3, {'words': Encoder(8, 20, 7)})
  context = Context(encoding, codec, null_text(encoding, TEXT_ENCODERS))
  write_latents(tmp_path / 'latents', context, {'train': EncodedClips(some, context)})
  return tmp_path / 'latents'


def change(path, **values):
  """Changes fields of a JSON file."""
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_split(folder, **values):
  info = json.loads((folder / 'dataset_info.json').read_text())
  info['splits'][0] |= values
  (folder / 'dataset_info.json').write_text(json.dumps(info))


def change_feature(folder, name, feature):
  features = json.loads((folder / 'features.json').read_text())
  features['featuresDict']['features'][name] = feature
  (folder / 'features.json').write_text(json.dumps(features))


def fails(capsys, monkeypatch, door, *arguments):
  """The sentence with which a front door ends."""
  monkeypatch.setattr(sys, 'argv', ['door', *map(str, arguments)])
  with pytest.raises((SystemExit, InputError)) as stopped:
    door.main()
  if isinstance(stopped.value, InputError):  # What `front_door` prints.
    return str(stopped.value)
  assert stopped.value.code == 2
  return capsys.readouterr().err


def peak():
  """The most memory that this process has had, in bytes."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# Code.


@pytest.fixture
def planted(tmp_path, monkeypatch):
  """A module in the current folder that leaves a trace where it is imported."""
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
  # Of clips, the features are known; of latents, only the sizes are read.
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
  change_feature(tmp_path / 'latents', 'places.0.box', PLANTED)
  with pytest.raises(InputError, match=r"of the class 'planted\.Planted'"):
    run.batches('train', 0)


# Names.


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


def record_of(dataset, **values):
  """Writes a dataset of one clip with changed fields."""
  clip = clips.encode_clip(scenes.scene(SCENES, 0)) | values
  place = dataset.with_name('bomb')
  records.write(place, clips.NAME, VERSION, clips.FEATURES, {'train': [('a', clip)]})
  return place


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
    clips.decode_ids(bomb, (4, 16, 16))
  assert peak() - before < 50 * MIB
  whole = clips.encode_ids(np.ones((4, 16, 16), np.uint8))
  with pytest.raises(InputError, match='they hold fewer'):
    clips.decode_ids(whole, (5, 16, 16))
  with pytest.raises(InputError, match='not label maps'):
    clips.decode_ids(whole[:-2], (4, 16, 16))


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
  refused('no shape', **{'text.words.caption': [-1]})
  refused('no shape', **{'text.words.caption': '20'})
  refused('does not have the texts', **{'text.others.caption': [20]})
  # Without its context beside it a dataset is bounded as well.
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
  """As TFDS writes them by default, with blocks that end within chunks."""
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


# Descriptions.

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
    """Without remarks, which are not read."""
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


# Keys.


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
  for written in (file, file.replace('.mp4', '-1.mp4')):  # A file that is there is kept.
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
  assert 'lies in the dataset' in fails(capsys, monkeypatch, show, shard, 0, f'--out={shard}')
  assert shard.read_bytes() == before


# Writers.


def test_of_two_writers_one_succeeds(tmp_path):
  barrier = threading.Barrier(2)
  ended = {}

  def write(seed):
    def splits():
      yield from scenes.Scenes(dataclasses.replace(SCENES, seed=seed), 3)
      barrier.wait()

    try:
      clips.write_clips(tmp_path / 'out', {'train': splits()}, {'seed': seed})
      ended[seed] = 'written'
    except InputError as error:
      ended[seed] = str(error)

  writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
  for writer in writers:
    writer.start()
  for writer in writers:
    writer.join()
  winner = next(seed for seed, end in ended.items() if end == 'written')
  assert 'another process wrote it in the meantime' in ended[3 - winner]
  found = clips.Clips(tmp_path / 'out', 'train')
  assert found.records.metadata == {'seed': winner}
  assert [clip.key for clip in found] == [f'scene-{winner}-{i}' for i in range(3)]
  assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_a_job_beside_the_dataset_is_left_alone(tmp_path):
  other = tmp_path / 'out.incomplete' / 'parts' / '00000'  # Of a preparation.
  other.mkdir(parents=True)
  make_scenes.main([f'--out={tmp_path}/out', '--train=1', '--validation=0', '--size=16'])
  assert other.is_dir()


def test_codecs_and_contexts_replace_each_other_whole(tmp_path):
  some = [clip.video for clip in scenes.Scenes(SCENES, 4)]
  codecs = [LinearCodec.fit(some, (2, 4, 4), channels) for channels in (3, 6)]

  def write(codec):
    for _ in range(15):
      save_codec(tmp_path / 'codec', codec)

  writers = [threading.Thread(target=write, args=(codec,)) for codec in codecs]
  for writer in writers:
    writer.start()
  for writer in writers:
    writer.join()
  assert load_codec(tmp_path / 'codec').channels in (3, 6)
  assert [path.name for path in tmp_path.iterdir()] == ['codec']


def test_outputs_in_the_way_are_named_before_the_work(dataset, capsys, monkeypatch, tmp_path):
  (tmp_path / 'full' / 'x').mkdir(parents=True)
  arguments = [f'--clips={dataset}', f'--out={tmp_path}/full', '--codec=none']
  assert 'full: already in use' in fails(capsys, monkeypatch, encode, *arguments)


@pytest.mark.parametrize('name', ['linear:0x4x4x6', 'linear:-2x4x4x6', 'linear:64x512x512x4'])
def test_patches_that_no_memory_holds(dataset, name, capsys, monkeypatch, tmp_path):
  arguments = [f'--clips={dataset}', f'--out={tmp_path}/out', f'--codec={name}']
  assert 'patch' in fails(capsys, monkeypatch, encode, *arguments)


def test_nothing_to_compare(dataset, capsys, monkeypatch):
  arguments = [f'--clips={dataset}', '--codec=linear:2x4x4x6', '--count=0']
  assert '--count 0' in fails(capsys, monkeypatch, compare_codecs, *arguments)
