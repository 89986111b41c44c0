"""Sessions that are kept on disk: after a restart, after damage, within number and age."""

import os
import stat
import time

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.helpers.studio_client import Page
from tests.helpers.studio_stub import LIMITS, StubBackend
from ttm_jax.errors import InputError
from ttm_jax.studio import kept_sessions
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.api import add_studio
from ttm_jax.studio.backends import Limits
from ttm_jax.studio.kept_sessions import KeptSessions
from ttm_jax.studio.sessions import Session


@pytest.fixture
def start(tmp_path):
  """Return a function that starts a studio which keeps its sessions: its client, and itself."""
  started = []

  def begin(work=tmp_path / 'work', limits=LIMITS):
    studio = Studio(StubBackend(limits), time_limit=60, work=str(work))
    started.append(studio)
    app = FastAPI()
    add_studio(app, studio)
    return TestClient(app, raise_server_exceptions=False), studio

  yield begin
  for studio in started:
    studio.close()


def example(client):
  page = Page(client)
  page.post('example', json={'number': 1})
  page.done('handle', kind='translate', object=1, frame=5, by=[3, 1])
  page.done('texts', caption='Two stars.')
  return page


def folders(work):
  return sorted((work / 'sessions').iterdir())


def session(token, picture=0):
  made = Session(token, LIMITS)
  made.project.start(np.full((LIMITS.height, LIMITS.width, 3), picture, np.uint8))
  return made


def seen(page):
  """Return what a page sees of its project."""
  state = page.get('state').json()
  return {
    name: state[name] for name in ('caption', 'motion', 'objects', 'edits', 'undo', 'picture')
  }


def test_a_project_survives_a_restart(start):
  client, studio = start()
  page = example(client)
  before, other = seen(page), Page(client)
  studio.close()
  page.client = other.client = start()[0]
  assert seen(page) == before and before['caption'] == 'Two stars.'
  page.done('undo')
  assert page.state['edits'] == []
  # A page without a picture had nothing to keep.
  assert other.get('state').json()['lost']


def test_a_change_is_written_within_seconds(start, tmp_path, monkeypatch):
  monkeypatch.setattr(kept_sessions, 'EVERY', 0.05)
  client, _ = start()
  page = example(client)
  kept = KeptSessions(tmp_path / 'work', LIMITS)
  for _ in range(200):
    written = kept.read(page.headers['X-Session'])
    if written and written.caption == 'Two stars.':
      break
    time.sleep(0.05)
  # The first studio has not ended: it was killed.
  page.client = start()[0]
  assert page.get('state').json()['caption'] == 'Two stars.'


def test_folders_are_private_and_do_not_name_the_session(start, tmp_path):
  client, studio = start()
  page = example(client)
  studio.close()
  (folder,) = folders(tmp_path / 'work')
  assert [path.name for path in folder.iterdir()] == ['project.ttm.zip']
  assert page.headers['X-Session'] not in str(folder)
  for path in (folder, folder.parent):
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize('damage', [b'', b'no zip', None])
def test_a_damaged_project_begins_anew(start, tmp_path, damage):
  client, studio = start()
  page = example(client)
  studio.close()
  file = folders(tmp_path / 'work')[0] / 'project.ttm.zip'
  file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
  page.client = start()[0]
  assert page.get('state').json()['lost']


def test_a_model_of_another_size_begins_anew_and_removes_nothing(start, tmp_path):
  client, studio = start()
  page = example(client)
  studio.close()
  page.client = start(limits=Limits(8, 16, 16, 8.0, 2, 4, 8))[0]
  assert page.get('state').json()['lost']
  page.client = start()[0]
  assert page.get('state').json()['caption'] == 'Two stars.'


@pytest.mark.parametrize('token', ['', '../..', 'x' * 10_000])
def test_a_token_is_no_path(start, token):
  client, _ = start()
  page = Page(client)
  page.headers = {'X-Session': token}
  assert page.get('state').json()['lost']


def test_old_sessions_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(kept_sessions, 'MOST_KEPT', 3)
  kept = KeptSessions(tmp_path, LIMITS)
  for number in range(5):
    kept.keep(session(str(number), number))
    os.utime(folders(tmp_path)[0].parent)
    for age, folder in enumerate(sorted(folders(tmp_path), key=lambda f: -f.stat().st_mtime)):
      os.utime(folder, (time.time() - 60 * age,) * 2)
  assert len(folders(tmp_path)) == 3
  assert [kept.read(str(number)) is not None for number in range(5)] == [False, False] + [True] * 3
  for folder in folders(tmp_path)[:2]:
    os.utime(folder, (time.time() - (kept_sessions.KEPT_DAYS + 1) * 86400,) * 2)
  KeptSessions(tmp_path, LIMITS)
  assert len(folders(tmp_path)) == 1


def test_only_what_changed_is_written(tmp_path):
  kept, made = KeptSessions(tmp_path, LIMITS), session('a')
  kept.keep(made)
  file = folders(tmp_path)[0] / 'project.ttm.zip'
  first = file.stat().st_mtime_ns
  kept.keep(made)
  assert file.stat().st_mtime_ns == first
  made.project.describe(1, name='dog')
  kept.keep(made)
  assert kept.read('a').things[1].name == 'dog'


def test_a_full_disk_is_logged(tmp_path, monkeypatch, caplog):
  def full(path, content):
    raise OSError(28, 'No space left on device')

  kept, made = KeptSessions(tmp_path, LIMITS), session('a')
  monkeypatch.setattr(kept_sessions, 'write_bytes', full)
  kept.keep(made)
  assert 'No space left on device' in caplog.text
  monkeypatch.undo()
  kept.keep(made)
  assert kept.read('a') is not None


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(InputError, match='give another --work, or --work off'):
    KeptSessions(tmp_path / 'file', LIMITS)


def test_proposals_and_videos_are_numbered_apart(page):
  for _ in range(2):
    page.post('example', json={'number': 0})
    page.done('propose', seed=2, count=2)
    page.done('render', seed=7)
    page.wait()
    page.done('render', seed=8)
    page.wait()
    assert [each['id'] for each in page.state['proposals']] == [1, 2]
    assert [each['id'] for each in page.state['renders']] == [1, 2]
