"""The Gradio page around the editor, and who may reach it."""

import argparse
import socket

import pytest
from fastapi.testclient import TestClient

from ttm_jax.errors import InputError
from ttm_jax.studio.server_flags import add_flags, check_flags
from ttm_jax.studio.shell import app_of


def client_of(studio, host='127.0.0.1', **options):
  return TestClient(app_of(studio, **options), base_url=f'http://{host}:7860')


def test_the_page_brings_all_of_its_own(studio):
  page = client_of(studio).get('/').text
  assert 'ttm-studio' in page and '/studio/web/main.js' in page


def test_a_password(studio):
  client = client_of(studio, auth='me:secret')
  for path in ('/', '/studio/web/main.js', '/config'):
    assert client.get(path).status_code == 401
    assert client.get(path, auth=('me', 'wrong')).status_code == 401
    assert client.get(path, auth=('me', 'secret')).status_code == 200
  assert client.post('/studio/api/session').status_code == 401
  assert client.get('/').headers['www-authenticate'].startswith('Basic')


def test_other_names_of_this_machine_are_refused(studio):
  assert client_of(studio, 'localhost').get('/studio/web/main.js').status_code == 200
  assert client_of(studio, 'evil.example').get('/studio/web/main.js').status_code == 400
  shared = client_of(studio, 'abc.gradio.live', public=True)
  assert shared.get('/studio/web/main.js').status_code == 200


@pytest.mark.parametrize('path', ['/etc/passwd', 'pyproject.toml', '../pyproject.toml'])
def test_gradio_hands_out_no_files(studio, path):
  client = client_of(studio)
  assert client.get(f'/gradio_api/file={path}').status_code in (403, 404)
  given = {'files': ('a.txt', b'more than a byte')}
  assert client.post('/gradio_api/upload', files=given).status_code == 413


def flags(*given):
  parser = argparse.ArgumentParser()
  add_flags(parser)
  return parser.parse_args(given)


def test_nothing_is_open_by_default(monkeypatch):
  monkeypatch.delenv('GRADIO_SERVER_NAME', raising=False)
  args = flags()
  assert (args.host, args.port, args.share, args.auth) == ('127.0.0.1', 7860, False, '')


@pytest.mark.parametrize(
  'given, message',
  [
    (('--auth', 'me'), 'write NAME:PASSWORD'),
    (('--auth', ':x'), 'write NAME:PASSWORD'),
    (('--share',), '--share lets everyone who has the link in'),
    (('--time_limit', '0'), 'must be above 0'),
    (('--port', '70000'), 'must be from 0 to 65535'),
  ],
)
def test_bad_flags(given, message):
  with pytest.raises(InputError, match=message):
    check_flags(flags(*given))


def test_a_port_that_is_taken():
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(InputError, match=f'cannot listen at 127.0.0.1:{port} .*another --port'):
      check_flags(flags('--port', str(port)))
