"""Malicious runs, weights and exported folders: the paths in them stay in their folder."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers import cli, exported
from ttm_jax.checksums import write_sums
from ttm_jax.errors import InputError
from ttm_jax.exported_folder import is_exported, load, read_codec, read_network
from ttm_jax.exporting import card, files
from ttm_jax.exporting.folder import export
from ttm_jax.exporting.stages import StageRun, models_of
from ttm_jax.json_file import read_object
from ttm_jax.pretrained import weights
from ttm_jax.pretrained.weights import INDEX, WEIGHTS
from ttm_jax.text.encoders import TextEncoderSpec
from ttm_jax.untrusted import identifier, inside, is_repository

SECRET = b'a private key'


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  return exported.make_runs(tmp_path_factory.mktemp('dit'), 'dit')


@pytest.fixture(scope='module')
def whole(pair, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole') / 'folder'
  export(*pair, folder)
  return folder


@pytest.fixture
def folder(whole, tmp_path):
  return Path(shutil.copytree(whole, tmp_path / 'copied'))


@pytest.fixture
def private(tmp_path):
  """A folder that the command does not name, and that must not be copied."""
  path = tmp_path / 'private'
  path.mkdir()
  (path / 'config.json').write_bytes(SECRET)
  return path


def content(directory):
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def run_that_reads(tmp_path, models, name='clip'):
  """Write a stage 2 run whose context names a text encoder."""
  settings = exported.config('dit', exported.STAGE2)
  empty = np.zeros((1, 5, 12), np.float16)

  def encode(texts, length):
    return empty[:, :length].repeat(len(texts), 0), np.full(len(texts), length, np.int32)

  where = exported.context('dit', {'clip': TextEncoderSpec(12, 5, 5)}, {'clip': encode})
  params = exported.parameters(settings, where)
  run = exported.save_run(tmp_path / 'run', settings, where, params)
  path = run / 'context' / 'context.json'
  values = json.loads(path.read_text())
  values['models'] = models
  if name != 'clip':
    values['encoders'] = {name: values['encoders']['clip']}
  path.write_text(json.dumps(values))
  return run


@pytest.mark.parametrize('name', ['../../../private', '/tmp/private', '..', 'a/b', 'a\nb', ''])
def test_a_run_whose_encoder_has_a_path_for_a_name(pair, tmp_path, private, name):
  two = run_that_reads(tmp_path, {name: str(private)}, name)
  with pytest.raises(InputError, match=r'cannot be used as a name|damaged'):
    export(pair[0], two, tmp_path / 'out', models={name: str(private)})
  assert not (tmp_path / 'out').exists()
  assert content(private) == {'config.json': SECRET}


def test_only_folders_named_in_the_command_are_copied(pair, tmp_path, private, monkeypatch):
  two = run_that_reads(tmp_path, {'clip': str(private)})
  with pytest.raises(InputError, match=f'--text clip={private} to copy it'):
    export(pair[0], two, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  # A folder in the current one, written like the id of a repository.
  (tmp_path / 'owner').mkdir()
  private.rename(tmp_path / 'owner' / 'clip')
  monkeypatch.chdir(tmp_path)
  shutil.rmtree(two)
  two = run_that_reads(tmp_path, {'clip': 'owner/clip'})
  with pytest.raises(InputError, match='only folders named in the command are copied'):
    export(pair[0], two, tmp_path / 'out')
  export(pair[0], two, tmp_path / 'out', models={'clip': 'owner/clip'})
  copied = tmp_path / 'out' / 'text_encoder' / 'clip' / 'config.json'
  assert copied.read_bytes() == SECRET


def test_links_in_a_text_encoder_are_not_followed_out_of_it(pair, tmp_path, private):
  two = run_that_reads(tmp_path, {})
  model = tmp_path / 'clip'
  model.mkdir()
  (model / 'config.json').symlink_to(private / 'config.json')
  with pytest.raises(InputError, match=r'clip/config.json is a link to .*private/config.json'):
    export(pair[0], two, tmp_path / 'out', models={'clip': str(model)})
  (model / 'config.json').unlink()
  (model / 'more').symlink_to(private)
  with pytest.raises(InputError, match='clip/more is a link to a folder'):
    export(pair[0], two, tmp_path / 'out', models={'clip': str(model)})
  assert not (tmp_path / 'out').exists()


def test_a_snapshot_of_the_hub_is_copied_with_what_its_links_stand_for(pair, tmp_path):
  two = run_that_reads(tmp_path, {})
  repository = tmp_path / 'models--owner--clip'
  snapshot, blobs = repository / 'snapshots' / 'abc', repository / 'blobs'
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  (blobs / '123').write_text('{}')
  (snapshot / 'config.json').symlink_to('../../blobs/123')
  (snapshot / 'modeling.py').write_text('import os')
  export(pair[0], two, tmp_path / 'out', models={'clip': str(snapshot)})
  copied = tmp_path / 'out' / 'text_encoder' / 'clip'
  assert content(copied) == {'config.json': b'{}'}
  assert not (copied / 'config.json').is_symlink()


def test_a_linked_sample_of_a_run_is_not_published(pair, tmp_path, private):
  run = Path(shutil.copytree(pair[0], tmp_path / 'one'))
  (run / 'samples').mkdir()
  (run / 'samples' / 'newest.gif').symlink_to(private / 'config.json')
  export(run, pair[1], tmp_path / 'out')
  assert SECRET not in content(tmp_path / 'out').values()


def test_two_stages_with_different_text_models(pair, tmp_path):
  one = run_that_reads(tmp_path / 'a', {'clip': 'owner/a'})
  two = run_that_reads(tmp_path / 'b', {'clip': 'owner/b'})
  stages = [StageRun(run, 'motion_to_video') for run in (one, two)]
  with pytest.raises(InputError, match='from different models, owner/a and owner/b'):
    models_of(stages, {})
  assert models_of(stages, {'clip': 'owner/c'}) == {'clip': 'owner/c'}


def test_a_run_whose_configuration_is_damaged(pair, tmp_path):
  run = Path(shutil.copytree(pair[0], tmp_path / 'one'))
  whole = json.loads((run / 'config.json').read_text())
  damaged = [{}, {'task': 7}, {'task': 'image_to_motion', 'preset': []}, {**whole, 'init_from': {}}]
  damaged += [{**whole, key: 7} for key in ('model', 'sample', 'init_from', 'data', 'optimizer')]
  for values in damaged:
    (run / 'config.json').write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf'run {run} |\.json of a run lacks'):
      export(run, pair[1], tmp_path / 'out')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['one']


def test_folders_of_this_machine_are_not_published():
  assert card.named('/home/me/weights/sd') == 'sd'
  assert card.named('owner/name') == 'owner/name'
  assert card.named('../weights/x\nlicense: mit') == 'xlicense: mit'


def test_two_exports_to_one_folder(pair, tmp_path, whole):
  """The first to finish succeeds, the other reports an error; their files are not mixed."""
  out = tmp_path / 'out'
  with (
    pytest.raises(InputError, match='another process wrote it in the meantime'),
    files.whole(out, 0) as late,
  ):
    (late / 'README.md').write_text('late')
    (late / 'late').write_text('late')
    export(*pair, out)
  assert content(out) == content(whole)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['out']


def test_two_processes_export_to_one_folder(pair, tmp_path, whole):
  options = f'--stage1={pair[0]}', f'--stage2={pair[1]}', f'--out={tmp_path}/out'
  both = [cli.start('ttm_jax.export', *options) for _ in range(2)]
  ended = [process.wait() for process in both]
  assert sorted(e.code for e in ended) == [0, 2], [e.err for e in ended]
  assert content(tmp_path / 'out') == content(whole)


def sharded(folder, weight_map, arrays):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text('{}')
  safetensors.numpy.save_file(arrays, folder / 'part.safetensors')
  (folder / INDEX).write_text(json.dumps({'weight_map': weight_map}))
  return folder


@pytest.mark.parametrize(
  'name',
  [
    '../other/part.safetensors',
    '/etc/passwd',
    'a/../../other/part.safetensors',
    '',
    '.',
    'x\x00y',
    7,
    None,
    ['part.safetensors'],
    '..\\other',
    'x\ny',
  ],
)
def test_shards_lie_in_their_folder(tmp_path, name):
  arrays = {'a': np.zeros(2, np.float32)}
  sharded(tmp_path / 'other', {'a': 'part.safetensors'}, arrays)
  where = sharded(tmp_path / 'model', {'a': 'part.safetensors', 'b': name}, arrays)
  with pytest.raises(InputError, match=r'which is not a file name|which leads out of'):
    weights.read(where)
  assert weights.read(tmp_path / 'other').tensors.keys() == {'a'}


def test_shards_that_are_links(tmp_path):
  arrays = {'a': np.zeros(2, np.float32)}
  other = sharded(tmp_path / 'other', {'a': 'part.safetensors'}, arrays)
  where = sharded(tmp_path / 'model', {'a': 'linked.safetensors'}, {'b': arrays['a']})
  (where / 'linked.safetensors').symlink_to(other / 'part.safetensors')
  with pytest.raises(InputError, match=r'linked.safetensors is a link to .*outside of'):
    weights.read(where)
  (where / 'linked.safetensors').unlink()
  (other / 'part.safetensors').rename(where / 'first.safetensors')
  (where / 'linked.safetensors').symlink_to('first.safetensors')
  assert weights.read(where).tensors.keys() == {'a'}


def test_a_tensor_in_two_shards_is_ambiguous(tmp_path):
  arrays = {'a': np.zeros(2, np.float32)}
  where = sharded(tmp_path, {'a': 'part.safetensors', 'b': 'more.safetensors'}, arrays)
  safetensors.numpy.save_file({**arrays, 'b': arrays['a']}, where / 'more.safetensors')
  with pytest.raises(InputError, match='holds the tensor a a second time'):
    weights.read(where)


BROKEN = {
  'empty': b'',
  'cut off': b'{"_class_name": ["pipeline", "TTMPi',
  'a list': b'[1, 2]',
  'a number': b'7',
  'null': b'null',
  'deep': b'[' * 100_000,
  'deep objects': b'{"a":' * 100_000,
  'deep and closed': b'{"a":' + b'[' * 10_000 + b']' * 10_000 + b'}',
  'no text': bytes(range(128, 256)),
  'a huge number': b'{"a": ' + b'9' * 10_000 + b'}',
}


@pytest.mark.parametrize('case', BROKEN)
def test_json_that_is_none(case, tmp_path, folder):
  (tmp_path / 'x.json').write_bytes(BROKEN[case])
  with pytest.raises(InputError, match=r'x\.json: (not JSON|damaged|must hold)'):
    read_object(tmp_path / 'x.json')
  for path, read in (
    (folder / 'model_index.json', lambda: is_exported(str(folder))),
    (folder / 'stage1' / 'config.json', lambda: read_network(folder / 'stage1')),
    (folder / 'codec' / 'config.json', lambda: read_codec(folder)),
  ):
    before = path.read_bytes()
    path.write_bytes(BROKEN[case])
    with pytest.raises(InputError, match=path.name):
      read()
    path.write_bytes(before)


def test_json_may_have_a_byte_order_mark(tmp_path):
  (tmp_path / 'x.json').write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xbc"}')
  assert read_object(tmp_path / 'x.json') == {'a': 'ü'}


ODD = [None, True, -1, 0, 1.5, 'x', [], {}, [1], 10**9, '../../x']
FIELDS = {
  'stage1': [
    'width',
    'layers',
    'heads',
    'grid',
    'patch',
    'encoders',
    'qk_norm',
    'num_masked_blocks',
  ],
  'codec': ['patch', 'channels', 'explained'],
}


@pytest.mark.parametrize('part, field', [(p, f) for p, fields in FIELDS.items() for f in fields])
def test_odd_values_in_an_exported_config(folder, part, field):
  """They are refused with an error message or, if the value is valid, read."""
  path = folder / part / 'config.json'
  before = json.loads(path.read_text())
  for value in ODD:
    path.write_text(json.dumps({**before, field: value}))
    write_sums(folder)
    try:
      read_network(folder / part) if part == 'stage1' else read_codec(folder)
    except InputError:
      continue
    assert field in ('explained', 'qk_norm', 'num_masked_blocks', 'grid', 'encoders'), value
  del before[field]
  path.write_text(json.dumps(before))
  write_sums(folder)
  with pytest.raises(InputError, match=f'lacks {field}|{field} must be a list'):
    read_network(folder / part) if part == 'stage1' else read_codec(folder)


@pytest.mark.parametrize('part', FIELDS)
def test_fields_that_an_exported_network_does_not_have(folder, part):
  path = folder / part / 'config.json'
  values = json.loads(path.read_text())
  path.write_text(json.dumps({**values, 'sparse': True}))
  write_sums(folder)
  with pytest.raises(InputError, match='sparse is True there, a field that is not known here'):
    read_network(folder / part) if part == 'stage1' else read_codec(folder)


def test_switches_of_diffusers_in_an_exported_unet(tmp_path):
  runs = exported.make_runs(tmp_path / 'runs', 'unet')
  export(*runs, tmp_path / 'folder')
  path = tmp_path / 'folder' / 'stage1' / 'config.json'
  values = json.loads(path.read_text())
  config = read_network(path.parent).config
  # diffusers adds these when it saves the network again.
  path.write_text(json.dumps({**values, 'act_fn': 'silu', 'norm_eps': 1e-5, 'mid_block_layers': 1}))
  write_sums(tmp_path / 'folder')
  assert read_network(path.parent).config == config
  for name, value in (('act_fn', 'relu'), ('norm_eps', 0.1), ('use_motion_mid_block', True)):
    path.write_text(json.dumps({**values, name: value}))
    write_sums(tmp_path / 'folder')
    with pytest.raises(InputError, match=f'{name} is .* there'):
      load(str(path.parent), dataclasses.replace(config))


@pytest.mark.parametrize(
  'name', ['../x', '/x', '..', '.', '', 'a/..', './', 'x\0', 'a\tb', 'a\\b', None, 3, b'x']
)
def test_names_that_lead_elsewhere(tmp_path, name):
  with pytest.raises(InputError):
    inside(tmp_path, name, 'list')
  with pytest.raises(InputError):
    identifier(name, 'list')


def test_names_that_are_fine(tmp_path):
  assert inside(tmp_path, 'a/b.safetensors', 'list') == tmp_path / 'a' / 'b.safetensors'
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  (tmp_path / 'up').symlink_to('..')
  with pytest.raises(InputError, match='outside of'):
    inside(tmp_path, 'up/x', 'list')
  for name in ('clip', 'ul2', 'clip_l', 't5-xxl', 'v1.5', '_'):
    assert identifier(name, 'list') == name
  assert is_repository('owner/name') and is_repository('gpt2')
  for name in ('a/b/c', '/a', '../a', './a', 'a/..', 'a//b', 'a b/c', 'ä/b', ''):
    assert not is_repository(name)


# The folder as PyTorch reads it.


def pipeline(folder, **options):
  pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
  from ttm_jax.pytorch import TTMPipeline

  return TTMPipeline.from_pretrained(folder, **options)


def test_every_file_that_is_read_is_listed(folder):
  sums = folder / 'SHA256SUMS'
  lines = sums.read_text().splitlines(keepends=True)
  for name in ('model_index.json', f'stage2/{WEIGHTS}', 'text_encoder/config.json'):
    sums.write_text(''.join(line for line in lines if not line.endswith(f'  {name}\n')))
    with pytest.raises(InputError, match=f'{name} is not listed in SHA256SUMS'):
      pipeline(folder)
  sums.write_text('')
  with pytest.raises(InputError, match='is not listed in SHA256SUMS'):
    pipeline(folder)
  sums.write_text(''.join(lines))
  (folder / 'text_encoder' / 'clip').mkdir()
  (folder / 'text_encoder' / 'clip' / 'adapter_config.json').write_text('{}')
  with pytest.raises(InputError, match=r'adapter_config\.json is not listed in SHA256SUMS'):
    pipeline(folder)
  shutil.rmtree(folder / 'text_encoder' / 'clip')
  # Files beside it, and those that a desktop leaves, are not read.
  (folder / 'out.mp4').write_text('')
  (folder / 'stage1' / '.DS_Store').write_text('')
  pipeline(folder)
  sums.write_text(''.join(line.replace('  ', ' *') for line in lines))  # As `sha256sum -b` does.
  pipeline(folder)


@pytest.mark.parametrize(
  'line', ['nonsense', 'abc  README.md', f'{"0" * 64}  ../private', f'{"0" * 64}  /etc/hostname']
)
def test_checksums_that_are_damaged_or_lead_elsewhere(folder, line):
  with (folder / 'SHA256SUMS').open('a') as file:
    file.write(line + '\n')
  with pytest.raises(InputError, match=r'line \d+ is damaged|which leads out of'):
    pipeline(folder)


@pytest.mark.parametrize('case', BROKEN)
def test_pytorch_reads_json_that_is_none(folder, case):
  for name in ('model_index.json', 'text_encoder/config.json', 'stage2/config.json'):
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(BROKEN[case])
    with pytest.raises(InputError, match=name):
      pipeline(folder, verify=False)
    (folder / name).write_bytes(before)


@pytest.mark.parametrize('value', ODD)
def test_odd_values_in_the_index(folder, value):
  before = json.loads((folder / 'model_index.json').read_text())
  for name in ('stage2', 'codec', 'video', 'stages'):
    (folder / 'model_index.json').write_text(json.dumps({**before, name: value}))
    with pytest.raises(InputError, match=f'model_index.json: {name}'):
      pipeline(folder, verify=False)
  for outer, inner in (('video', 'frames'), ('video', 'latents'), ('stages', 'stage2')):
    if value == 1.5 or (inner == 'frames' and value == 10**9):
      continue
    changed = {**before, outer: {**before[outer], inner: value}}
    (folder / 'model_index.json').write_text(json.dumps(changed))
    with pytest.raises(InputError, match=f'model_index.json: {outer}.{inner}'):
      pipeline(folder, verify=False)


def test_the_generator_in_pytorch_reads_a_damaged_folder(folder, tmp_path):
  (folder / 'text_encoder' / 'config.json').write_bytes(BROKEN['deep'])
  (tmp_path / 'x.png').write_bytes(b'')
  options = f'--image={tmp_path}/x.png', '--prompt=x', '--motion=x', f'--out={tmp_path}/out.mp4'
  ended = cli.run('ttm_jax.pytorch.generate', folder, *options, '--segmentation=x.png')
  assert ended.code == 2 and ended.err.startswith('error: ') and ended.err.count('\n') == 1


@pytest.mark.parametrize(
  'part, name, value',
  [
    ('stage2', 'sparse', True),
    ('motion_scheduler', 'shift_terminal', 0.1),
    ('motion_scheduler', 'prediction_type', 'epsilon'),
    ('codec', 'shift_factor', 0.1),
  ],
)
def test_pytorch_refuses_fields_that_are_not_computed(folder, part, name, value):
  path = folder / part / ('scheduler_config.json' if 'scheduler' in part else 'config.json')
  path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
  with pytest.raises(InputError, match=name):
    pipeline(folder, verify=False)


@pytest.mark.parametrize(
  'name, value',
  [
    ('set_alpha_to_one', False),
    ('steps_offset', 1),
    ('trained_betas', [0.1]),
    ('act_fn', 'relu'),
    ('prediction_type', 'epsilon'),
    ('clip_sample', True),
  ],
)
def test_pytorch_refuses_fields_of_diffusers_that_are_not_computed(folders, tmp_path, name, value):
  shutil.copytree(folders['unet'][1], tmp_path / 'folder')
  part = 'stage2/config.json' if name == 'act_fn' else 'scheduler/scheduler_config.json'
  path = tmp_path / 'folder' / part
  path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
  with pytest.raises(InputError, match=name):
    pipeline(tmp_path / 'folder', verify=False)


def test_pytorch_follows_no_path_out_of_the_folder(folder, pair, tmp_path):
  cut = tmp_path / 'cut'
  export(*pair, cut, shard=10_000)
  path = cut / 'stage2' / INDEX
  index = json.loads(path.read_text())
  name = sorted(index['weight_map'])[0]
  elsewhere = Path(shutil.copytree(cut / 'stage2', tmp_path / 'elsewhere'))
  index['weight_map'][name] = f'../../elsewhere/{index["weight_map"][name]}'
  path.write_text(json.dumps(index))
  write_sums(cut)
  with pytest.raises(InputError, match='which leads out of'):
    pipeline(cut)
  shutil.rmtree(folder / 'stage2')
  os.symlink(elsewhere, folder / 'stage2')
  for verify in (True, False):
    with pytest.raises(InputError, match=r'stage2.* is a link'):
      pipeline(folder, verify=verify)


@pytest.mark.parametrize('model', ['./../../private', './', '/etc', '../x', 'a b', None, 3, {}])
def test_text_encoders_lie_in_the_folder_or_on_the_hub(folder, model):
  path = folder / 'text_encoder' / 'config.json'
  values = json.loads(path.read_text())
  path.write_text(json.dumps({**values, 'models': {'clip': model}}))
  with pytest.raises(InputError, match=r'text_encoder/config\.json'):
    pipeline(folder, verify=False)


def test_a_class_that_is_none(folder):
  path = folder / 'model_index.json'
  for kind in ('os.system', 'TTMNothing', 'eval'):
    index = json.loads(path.read_text())
    index['stage2'] = ['os', kind]
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match='is of the unknown class'):
      pipeline(folder, verify=False)
