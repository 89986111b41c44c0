"""Files and folders appear completely or not at all."""

import fcntl
import os
import subprocess
import sys
import threading

import pytest

from ttm_jax import atomic
from ttm_jax.errors import InputError


def names(folder):
  return sorted(os.listdir(folder))


def test_a_file_is_replaced_at_once(tmp_path):
  path = tmp_path / 'deep' / 'x.json'
  atomic.write_text(path, 'ä')
  with atomic.new_file(path) as partial:
    partial.write_bytes(b'new')
    assert path.read_bytes() == 'ä'.encode()
  assert path.read_bytes() == b'new' and names(path.parent) == ['x.json']


def test_after_an_exception_the_old_file_is_left_alone(tmp_path):
  path = tmp_path / 'x'
  atomic.write_bytes(path, b'old')
  with pytest.raises(KeyError), atomic.new_file(path) as partial:
    partial.write_bytes(b'half')
    raise KeyError
  assert path.read_bytes() == b'old' and names(tmp_path) == ['x']


def test_a_symbolic_link_is_followed(tmp_path):
  (tmp_path / 'disk').mkdir()
  (tmp_path / 'link').symlink_to(tmp_path / 'disk')
  with atomic.new_folder(tmp_path / 'link') as partial:
    (partial / 'a').write_text('1')
  assert (tmp_path / 'link').is_symlink() and names(tmp_path / 'disk') == ['a']


@pytest.mark.parametrize('name', ['x' * 251 + '.mp4', '漢' * 83 + '.mp4', '😀' * 62 + '.mp4'])
def test_names_of_255_bytes(tmp_path, name):
  path = tmp_path / name
  atomic.write_bytes(path, b'1')
  assert names(tmp_path) == [path.name]


def test_a_folder_in_use_is_refused_before_the_work(tmp_path):
  (tmp_path / 'out').mkdir()
  with atomic.new_folder(tmp_path / 'out') as partial:
    (partial / 'a').write_text('1')
  for path in (tmp_path / 'out', tmp_path / 'out' / 'a'):
    with pytest.raises(InputError, match=r'not empty|not a folder'), atomic.new_folder(path):
      raise AssertionError
  assert names(tmp_path) == ['out']


def test_of_two_writers_of_a_folder_one_fails(tmp_path):
  barrier, results = threading.Barrier(2), {}

  def write(name):
    try:
      with atomic.new_folder(tmp_path / 'out') as partial:
        for i in range(20):
          (partial / str(i)).write_text(name)
        barrier.wait()
      results[name] = 'written'
    except InputError as error:
      results[name] = str(error)

  threads = [threading.Thread(target=write, args=(name,)) for name in 'ab']
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(results.values())[1] == 'written'
  assert 'another process wrote it' in sorted(results.values())[0]
  winner = next(name for name, result in results.items() if result == 'written')
  assert {(tmp_path / 'out' / str(i)).read_text() for i in range(20)} == {winner}
  assert names(tmp_path) == ['out']


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_not_disturbed(tmp_path):
  code = """
import os, sys
from ttm_jax import atomic
with atomic.new_folder(sys.argv[1]) as partial, atomic.new_file(sys.argv[1] + '.json') as file:
  (partial / 'a').write_text('1'); file.write_text('1')
  os.kill(os.getpid(), 9)
"""
  subprocess.run([sys.executable, '-c', code, tmp_path / 'out'], check=False)
  left = names(tmp_path)
  assert len(left) == 2 and all(name.endswith('.partial') for name in left)
  with pytest.raises(InputError), atomic.new_folder(tmp_path / 'out') as first:
    (first / 'a').write_text('1')
    with atomic.new_folder(tmp_path / 'out') as second:
      assert first.exists() and names(tmp_path) != left
      (second / 'a').write_text('2')
    assert (tmp_path / 'out' / 'a').read_text() == '2'
  atomic.write_text(tmp_path / 'out.json', '2')
  assert names(tmp_path) == ['out', 'out.json']


@pytest.mark.parametrize('blocked', [False, True], ids=['removed', 'being removed'])
def test_what_is_taken_for_a_leftover_is_created_anew(tmp_path, monkeypatch, blocked):
  lock, taken = fcntl.flock, []

  def too_late(descriptor, how):
    if len(taken) < 2:  # Another writer was faster, twice.
      (entry,) = (path for path in tmp_path.iterdir() if path.name.endswith('.partial'))
      taken.append(entry.name)
      entry.rmdir() if entry.is_dir() else entry.unlink()
      if blocked:
        raise BlockingIOError
    return lock(descriptor, how)

  monkeypatch.setattr(fcntl, 'flock', too_late)
  with atomic.replaced_folder(tmp_path / 'out') as partial:
    assert len(taken) == 2 and partial.name not in taken
    (partial / 'a').write_text('1')
  taken.clear()
  atomic.write_text(tmp_path / 'out.json', '2')
  assert len(taken) == 2
  assert (tmp_path / 'out' / 'a').read_text() == '1'
  assert names(tmp_path) == ['out', 'out.json']
