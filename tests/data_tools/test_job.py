"""Repeat a preparation: changed shards are made again, and one job at a time writes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import import_folder, job, parts, prepare, shard
from data_tools import report as reports
from data_tools.commands import prepare as preparation
from data_tools.sources.base import Video
from data_tools.sources.descriptions import Window
from tests.helpers import sockets, video_fixtures
from ttm_jax.data import records
from ttm_jax.data.clips import Clips
from ttm_jax.errors import InputError

ROOT = Path(__file__).parents[2]
SAID = {'c': 'A dog.', 'c_motion': 'It runs.', 'c_local': {'1': 'a dog that runs'}}


def make(source, *keys, frames=12):
  """Make videos with masks, and one captions file for all of them."""
  for key in keys:
    ids = np.zeros((frames, 32, 48), np.uint8)
    ids[:, 4:14, 4:16] = 1
    video_fixtures.object_video(source / key, ids)
  describe(source, **dict.fromkeys(keys, 'A dog.'))
  return source


def describe(source, **captions):
  entries = {key: SAID | {'c': said} for key, said in captions.items()}
  (source / 'captions.json').write_text(json.dumps(entries))


def options(source, out, *more):
  given = [f'--source={source}', f'--captions={source}/captions.json', f'--out={out}']
  return [*given, '--clip=6x16x24', '--fps=12', '--videos_per_shard=1', *more]


def clips(out):
  return {c.key: c for split in records.splits(out) for c in Clips(out, split)}


@pytest.fixture
def made(monkeypatch):
  """Return the videos that are read, in order."""
  read = []
  run = shard.drafts

  def noted(video, *arguments):
    read.append(video.key)
    return run(video, *arguments)

  monkeypatch.setattr(shard, 'drafts', noted)
  return read


def newer(path):
  """Change the modification time visibly, even on file systems with a resolution of one second."""
  seen = path.stat()
  os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 2_000_000_000))


def test_a_mended_video_is_made_again_and_the_rest_is_kept(tmp_path, made, capsys):
  source, out = make(tmp_path / 'source', 'a', 'b', 'c'), tmp_path / 'out'
  whole = (source / 'b' / 'video.mp4').read_bytes()
  video_fixtures.truncate(source / 'b' / 'video.mp4', 0.3)
  prepare.main(options(source, out))
  assert {key.split('/')[0] for key in clips(out)} == {'a', 'c'}
  assert 'not used b: ' in capsys.readouterr().out
  del made[:]
  prepare.main(options(source, out))
  assert not made and 'is finished already' in capsys.readouterr().out
  (source / 'b' / 'video.mp4').write_bytes(whole)
  prepare.main(options(source, out))
  assert made == ['b']
  assert 'source has changed; 2 of 3 shards are kept' in capsys.readouterr().out
  fresh = tmp_path / 'fresh'
  prepare.main(options(source, fresh))
  again, wanted = clips(out), clips(fresh)
  assert again.keys() == wanted.keys() and len(wanted) == 6
  for key, clip in wanted.items():
    np.testing.assert_array_equal(again[key].video, clip.video)
  assert sorted(os.listdir(out)) == sorted(os.listdir(fresh))
  assert sorted(os.listdir(tmp_path)) == ['fresh', 'out', 'source']
  for name in ('videos', 'windows', 'sources'):
    assert report(out)[name] == report(fresh)[name]


def report(out):
  return json.loads((out / 'report.json').read_text())


def test_whatever_changes_is_noticed(tmp_path, made):
  source, out = make(tmp_path / 'source', 'a', 'b'), tmp_path / 'out'
  prepare.main(options(source, out))

  def again():
    del made[:]
    prepare.main(options(source, out))
    return made

  assert again() == []
  mask = source / 'b' / 'masks' / '00003.png'
  content = np.asarray(Image.open(mask))
  Image.fromarray(np.where(content, 0, content)).save(mask)
  newer(mask)  # One of twelve masks, under its old name.
  assert again() == ['b']
  shutil.copyfile(source / 'a' / 'video.mp4', source / 'b' / 'video.mp4')
  newer(source / 'b' / 'video.mp4')  # Same size.
  assert again() == ['b']
  describe(source, a='A cat.', b='A dog.')
  assert again() == ['a']
  assert {c.caption for k, c in clips(out).items() if k[0] == 'a'} == {'A cat.'}
  (source / 'notes.txt').write_text('nothing of a video')
  newer(source / 'captions.json')  # Same content.
  assert again() == []
  make(source, 'c')
  describe(source, a='A cat.', b='A dog.', c='A dog.')
  assert again() == ['c']
  describe(source, b='A dog.', c='A dog.')  # The first video is left out; the others move up.
  assert again() == [] and {k[0] for k in clips(out)} == {'b', 'c'}
  assert report(out)['unread']['reasons']['not in captions.json'] == 13


def test_an_interrupted_job_notices_too(tmp_path, made):
  source, out = make(tmp_path / 'source', 'a', 'b', 'c'), tmp_path / 'out'
  video_fixtures.truncate(source / 'a' / 'video.mp4', 0.3)
  stop(source, out, made, 'c')
  assert made == ['a', 'b', 'c']
  make(source, 'a')
  describe(source, a='A dog.', b='A dog.', c='A dog.')
  del made[:]
  prepare.main(options(source, out))
  assert made == ['a', 'c'] and {k[0] for k in clips(out)} == {'a', 'b', 'c'}


def stop(source, out, made, key):
  """Interrupt a job when it reaches a video."""
  noted = shard.drafts

  def interrupted(video, *arguments):
    drafts = noted(video, *arguments)
    if video.key == key:
      raise KeyboardInterrupt
    return drafts

  shard.drafts = interrupted
  try:
    with pytest.raises(KeyboardInterrupt):
      prepare.main(options(source, out))
  finally:
    shard.drafts = noted


@pytest.mark.parametrize('at', ['describe', 'report', 'finish', 'rename'])
def test_the_last_steps_may_be_interrupted(tmp_path, made, monkeypatch, at):
  source, out = make(tmp_path / 'source', 'a', 'b'), tmp_path / 'out'
  with monkeypatch.context() as patched:
    rename = Path.rename

    def interrupted(self, *arguments):
      if at == 'rename' and self != tmp_path / 'out.incomplete':
        return rename(self, *arguments)
      raise KeyboardInterrupt

    place = {
      'describe': (parts, 'describe'),
      'report': (reports, 'write'),
      'finish': (job, 'finish'),
      'rename': (Path, 'rename'),
    }[at]
    patched.setattr(*place, interrupted)
    with pytest.raises(KeyboardInterrupt):
      prepare.main(options(source, out))
  assert not out.exists()
  make(source, 'b', frames=18)
  describe(source, a='A dog.', b='A dog.')
  del made[:]
  prepare.main(options(source, out))
  assert made == ['b'] and len(clips(out)) == 5
  assert sorted(os.listdir(tmp_path)) == ['out', 'source']


def test_models_and_templates_are_part_of_a_job(tmp_path):
  source = make(tmp_path / 'source', 'a')
  template, model = tmp_path / 'motion.txt', tmp_path / 'llm'
  template.write_text('Say {caption}.')
  model.mkdir()
  (model / 'config.json').write_text('{}')
  flags = (f'--motion_template={template}', f'--llm={model}')
  args = prepare.parser().parse_args(options(source, tmp_path / 'out', *flags))

  def digest():
    shards = [shard.Shard(0, ((Video('a', str(source / 'a')), 'train'),))]
    return preparation.stamped(shards, args, {})[0].digest

  first = digest()
  assert digest() == first
  template.write_text('Tell {caption}.')
  second = digest()
  (model / 'config.json').write_text('{"a": 1}')
  assert len({first, second, digest()}) == 3


def test_what_is_not_ours_is_not_removed(tmp_path):
  source, out = make(tmp_path / 'source', 'a'), tmp_path / 'out'
  prepare.main(options(source, out))
  (out / 'notes.md').write_text('mine')
  describe(source, a='A cat.')
  with pytest.raises(InputError, match=r'contains notes\.md, which is not part of the dataset'):
    prepare.main(options(source, out))
  assert (out / 'notes.md').read_text() == 'mine' and len(clips(out)) == 2


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
  source, out = make(tmp_path / 'source', 'a'), tmp_path / 'out'
  write = reports.write

  def appears(*arguments):
    out.mkdir()
    (out / 'theirs').write_text('x')
    return write(*arguments)

  monkeypatch.setattr(reports, 'write', appears)
  with pytest.raises(InputError, match='was created by another process; move it away'):
    prepare.main(options(source, out))
  monkeypatch.undo()
  assert (out / 'theirs').read_text() == 'x'
  shutil.rmtree(out)
  prepare.main(options(source, out))
  assert len(clips(out)) == 2


def test_buckets_are_kept_too(tmp_path, made):
  source, out = tmp_path / 'source', tmp_path / 'out'
  for key, size in (('tall', (32, 16)), ('wide', (16, 32))):
    ids = np.zeros((8, *size), np.uint8)
    ids[:, 4:12, 4:12] = 1
    video_fixtures.object_video(source / key, ids)
  describe(source, tall='A dog.', wide='A dog.')
  given = options(source, out)
  given[3:4] = ['--clip=4x8x16', '--clip=8x16x8']
  prepare.main(given)
  del made[:]
  describe(source, tall='A dog.', wide='A cat.')
  prepare.main(given)
  assert made == ['wide']
  assert [c.caption for c in Clips(out / '4x8x16', 'train')] == ['A cat.', 'A cat.']
  assert [c.caption for c in Clips(out / '8x16x8', 'train')] == ['A dog.']


# One job at a time.


def command(source, out, *more):
  return [sys.executable, '-m', 'data_tools.prepare', *options(source, out, *more)]


def begin(command):
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def wait_for(condition, process, limit=120):
  end = time.monotonic() + limit
  while not condition() and process.poll() is None and time.monotonic() < end:
    time.sleep(0.01)
  assert condition(), process.communicate()[1] if process.poll() is not None else 'too slow'


def test_a_second_job_refuses_while_the_first_lives(tmp_path):
  source, out = make(tmp_path / 'source', 'a', 'b', 'c'), tmp_path / 'out'
  with job.alone(out):
    with pytest.raises(InputError) as caught:
      prepare.main(options(source, out))
    ended = subprocess.run(command(source, out), cwd=ROOT, capture_output=True, text=True)
  said = f'{out}: another process is preparing it; wait until it ends, or name another --out'
  assert str(caught.value) == said
  assert (ended.returncode, ended.stderr) == (2, f'error: {said}\n')
  prepare.main(options(source, out))
  assert len(clips(out)) == 6 and sorted(os.listdir(tmp_path)) == ['out', 'source']


def test_a_dead_job_does_not_block(tmp_path):
  source, out = make(tmp_path / 'source', *'abcdefgh', frames=60), tmp_path / 'out'
  process = begin(command(source, out))
  wait_for((tmp_path / 'out.incomplete' / 'parts' / '00000').is_dir, process)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert (tmp_path / '.out.lock').exists()
  prepare.main(options(source, out))
  assert len(clips(out)) == 80 and not (tmp_path / '.out.lock').exists()


# Workers.


@pytest.mark.skipif(not Path('/proc/net/tcp').exists(), reason='needs /proc of Linux')
@pytest.mark.parametrize('workers', [1, pytest.param(3, marks=pytest.mark.slow)])
def test_no_process_of_a_job_listens(tmp_path, workers):
  source, out = make(tmp_path / 'source', *'abcdef', frames=60), tmp_path / 'out'
  process = begin(command(source, out, f'--workers={workers}'))
  listening, most = set(), 0
  while process.poll() is None:
    most = max(most, len(sockets.tree(process.pid)))
    listening |= sockets.listening(process.pid)
    time.sleep(0.02)
  assert process.returncode == 0, process.communicate()[1]
  process.communicate()
  assert listening == set()
  assert most >= 1 + (workers if workers > 1 else 0)
  assert len(clips(out)) == 60


def test_how_listening_sockets_are_found(tmp_path):
  import socket

  with socket.socket() as one:
    one.bind(('127.0.0.1', 0))
    one.listen()
    assert one.getsockname() in sockets.listening(os.getpid())


def test_workers_end_with_a_job_that_is_killed(tmp_path):
  source, out = make(tmp_path / 'source', *'abcdefgh', frames=60), tmp_path / 'out'
  process = begin(command(source, out, '--workers=2'))
  wait_for(lambda: len(sockets.tree(process.pid)) >= 3, process)
  wait_for((tmp_path / 'out.incomplete' / 'parts').is_dir, process)
  family = sockets.tree(process.pid)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  end = time.monotonic() + 20
  while left := [pid for pid in family if alive(pid)]:
    assert time.monotonic() < end, left
    time.sleep(0.05)
  prepare.main(options(source, out))
  assert len(clips(out)) == 80


def alive(pid):
  try:
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
  except OSError:
    return False


def test_a_worker_that_is_killed_is_said_in_one_sentence(tmp_path):
  source, out = make(tmp_path / 'source', *'abcdefgh', frames=60), tmp_path / 'out'
  process = begin(command(source, out, '--workers=2'))
  wait_for((tmp_path / 'out.incomplete' / 'parts').is_dir, process)
  workers = [pid for pid in sockets.tree(process.pid) if is_worker(pid)]
  os.kill(workers[0], signal.SIGKILL)
  said = process.communicate()[1].strip().split('\n')[-1]
  assert process.returncode == 2 and said == (
    'error: a worker process was killed, perhaps because memory ran out; run the same command'
    ' again, with fewer than --workers 2'
  )
  prepare.main(options(source, out))
  assert len(clips(out)) == 80


def is_worker(pid):
  return b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()


def test_a_model_that_a_worker_misses_is_said_in_one_sentence(tmp_path):
  source, out = make(tmp_path / 'source', 'a', 'b'), tmp_path / 'out'
  ended = subprocess.run(
    command(source, out, '--workers=2', '--llm=./nowhere', '--offline'),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 2 and 'Traceback' not in ended.stderr
  said = ended.stderr.strip().split('\n')[-1]
  assert said == 'error: ./nowhere: there is no such folder; check the path'


def test_beam_gives_the_same(tmp_path):
  pytest.importorskip('apache_beam', reason="not installed: pip install 'ttm_jax[data]'")
  source = make(tmp_path / 'source', 'a', 'b')
  for name, more in (('one', ()), ('other', ('--', '--runner=DirectRunner'))):
    prepare.main(options(source, tmp_path / name, *more))
  one, other = clips(tmp_path / 'one'), clips(tmp_path / 'other')
  assert one.keys() == other.keys() and len(one) == 4
  for key, clip in one.items():
    np.testing.assert_array_equal(other[key].video, clip.video)


# Messages.


def test_frames_without_a_rate(tmp_path, capsys):
  source, out = tmp_path / 'source', tmp_path / 'out'
  for key in 'ab':
    make(source, key)
    (source / key / 'video.mp4').unlink()
    pictures = source / key / 'JPEGImages'
    pictures.mkdir()
    for number, frame in enumerate(video_fixtures.levels(12)):
      Image.fromarray(frame).save(pictures / f'{number:05d}.jpg')
  describe(source, a='A dog.', b='A dog.')
  with pytest.raises(InputError) as caught:
    prepare.main(options(source, out))
  assert str(caught.value) == (
    f'no clip was accepted: 2 videos not used ({source}/a/JPEGImages: a folder of images has'
    f' no frame rate; give --source_fps); see {out}.incomplete/report.html'
  )
  prepare.main(options(source, out, '--source_fps=12'))
  assert len(clips(out)) == 4
  folder = [f'--source={source}', f'--captions={source}/captions.json', f'--out={tmp_path}/in']
  folder += ['--frames=6', '--fps=12', '--size=16x24']
  with pytest.raises(SystemExit):
    import_folder.main(folder)
  assert 'give --source_fps' in capsys.readouterr().out
  import_folder.main([*folder, '--source_fps=12'])
  assert len(clips(tmp_path / 'in')) == 4


def test_what_is_not_read_is_said(tmp_path, capsys):
  source, out = make(tmp_path / 'source', 'a', 'b'), tmp_path / 'out'
  describe(source, a='A dog.')
  (source / 'old.xyz').write_bytes(b'')
  prepare.main(options(source, out))
  said = capsys.readouterr().out
  assert 'not read 13: not in captions.json (b/)' in said
  assert 'not the extension of a video, image or table (old.xyz)' in said
  found = report(out)['unread']
  assert (
    found['files'] == 14
    and {'name': 'old.xyz', 'files': 1}.items()
    <= next(one for one in found['names'] if one['name'] == 'old.xyz').items()
  )
  assert 'old.xyz' in (out / 'report.html').read_text()
  import_folder.main(
    [
      *(f'--source={source}', f'--captions={source}/captions.json', f'--out={tmp_path}/in'),
      *('--frames=6', '--fps=12', '--size=16x24'),
    ]
  )
  assert '(old.xyz)' in capsys.readouterr().out


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path, capsys):
  key = 'a\x1b[31m\x9b2J\nred\u202e'
  source, out = make(tmp_path / 'source', key, 'b'), tmp_path / 'out'
  (source / f'{key}.xyz').write_bytes(b'')
  video_fixtures.truncate(source / key / 'video.mp4', 0.3)
  describe(source, **{key: 'A dog.\x1b[1m', 'b': 'A dog.\x1b[1m'})
  prepare.main(options(source, out))
  ended = capsys.readouterr()
  for text in (ended.out, (out / 'report.html').read_text(), (out / 'report.json').read_text()):
    assert 'a\\x1b[31m' in text or 'a\\u001b[31m' in text
    assert not {'\x1b', '\x9b', '\u202e'} & set(text)
  assert 'not used a\\x1b[31m\\x9b2J\\nred\\u202e: ' in ended.out
  assert key in report(out)['sources']


def test_names_that_are_no_text_are_reported(tmp_path, capsys):
  source, out = make(tmp_path / 'source', 'b'), tmp_path / 'out'
  entries = {key: SAID for key in ('b', 'x\ud800', 'y\0', 'z' * 300)}
  (source / 'captions.json').write_text(json.dumps(entries))
  Path(os.fsdecode(bytes(source) + b'/odd\xff.xyz')).write_bytes(b'')
  prepare.main(options(source, out))
  said = capsys.readouterr().out
  assert 'not used x\\ud800: ' in said and 'not used y\\x00: ' in said
  assert 'a file or folder name has 300 bytes, more than 255; shorten it' in said
  assert 'odd\\udcff.xyz' in said and 'odd\\udcff.xyz' in (out / 'report.html').read_text()
  assert report(out)['videos']['unused'] == 3
  # And directly into clips.
  import_folder.main(
    [
      *(f'--source={source}', f'--captions={source}/captions.json', f'--out={tmp_path}/in'),
      *('--frames=6', '--fps=12', '--size=16x24'),
    ]
  )
  assert len(clips(tmp_path / 'in')) == 2


@pytest.mark.parametrize('content', ['{', '[]', '{"options": 5}', '[' * 100_000])
def test_damaged_notes_of_a_job_do_not_stop_it(tmp_path, content):
  source, out = make(tmp_path / 'source', 'a'), tmp_path / 'out'
  incomplete = tmp_path / 'out.incomplete'
  (incomplete / 'parts' / '00000').mkdir(parents=True)
  for name in ('parts/00000/tally.json', 'report.json', 'shards.json'):
    (incomplete / name).write_text(content)
  (incomplete / 'job.json').write_text('{' if content.startswith('{') else content)
  prepare.main(options(source, out))
  assert len(clips(out)) == 2
  (out / 'shards.json').write_text(content)
  with pytest.raises(InputError, match='already in use; remove it or name another folder'):
    prepare.main(options(source, out))


def test_odd_names_in_every_path(tmp_path):
  place = tmp_path / 'proj [v1] *?{a}~ ü'
  source, out = make(place / 'sou[r]ce', 'a b[1]*?', 'b'), place / 'o*t {1}'
  video_fixtures.truncate(source / 'b' / 'video.mp4', 0.3)
  prepare.main(options(source, out, '--workers=2'))
  assert set(clips(out)) == {'a b[1]*?/00000', 'a b[1]*?/00006'}
  make(source, 'b')
  describe(source, **{'a b[1]*?': 'A dog.', 'b': 'A dog.'})
  prepare.main(options(source, out))
  assert len(clips(out)) == 4 and Window(6, 6, 12, (16, 24))
