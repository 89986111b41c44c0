"""A browser, and studios for it to open.

The browser is that of `playwright install chromium`, or the program that TTM_CHROMIUM names.
"""

import contextlib
import os

import pytest
from playwright.sync_api import Error, expect, sync_playwright

from tests.helpers.studio_server import serving
from tests.helpers.studio_stub import StubBackend, StubFinder

expect.set_options(timeout=20_000)


@pytest.fixture(scope='session')
def browser():
  with sync_playwright() as playwright:
    try:
      made = playwright.chromium.launch(
        executable_path=os.environ.get('TTM_CHROMIUM') or None, args=['--no-sandbox']
      )
    except Error as error:
      pytest.fail(
        'there is no browser: run `playwright install chromium`, or name a Chromium with'
        f' TTM_CHROMIUM ({str(error).splitlines()[0]})'
      )
    yield made
    made.close()


@pytest.fixture(scope='module')
def serve():
  """Return a function that serves a studio until the module ends: (backend, finder) -> address."""
  with contextlib.ExitStack() as stack:
    yield lambda backend, finder=None: stack.enter_context(serving(backend, finder))


@pytest.fixture(scope='module')
def stub(serve):
  """A studio without networks: its backend and its address."""
  backend = StubBackend()
  return backend, serve(backend, StubFinder())


@pytest.fixture
def open_page(browser):
  """Return a function that opens a studio in a window of its own.

  At the end, no page may have written an error to its console, nor asked another server.
  """
  opened, problems = [], []

  def open_at(address, width=1440, height=900, expected=()):
    context = browser.new_context(
      viewport={'width': width, 'height': height}, accept_downloads=True
    )
    context.grant_permissions(['clipboard-read', 'clipboard-write'])
    page = context.new_page()
    page.set_default_timeout(20_000)

    def told(message):
      known = any(text in message.text for text in expected)
      if message.type == 'error' and not known:
        problems.append(message.text)

    page.on('console', told)
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on(
      'request',
      lambda asked: (
        problems.append(f'asked {asked.url}')
        if not asked.url.startswith((address, 'data:', 'blob:'))
        else None
      ),
    )
    page.goto(address)
    page.wait_for_selector('ttm-studio[data-ready]')
    opened.append(context)
    return page

  yield open_at
  for context in opened:
    context.close()
  assert not problems


@pytest.fixture
def open_file(browser):
  """Return a function that opens an HTML file in a window of its own.

  At the end, no page may have written an error to its console, nor asked a server.
  """
  opened, problems = [], []

  def open_at(path, width=1440, height=900):
    size = {'width': width, 'height': height}
    context = browser.new_context(viewport=size, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on('console', lambda told: problems.append(told.text) if told.type == 'error' else None)
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on(
      'request',
      lambda asked: (
        None if asked.url.startswith(('file:', 'data:', 'blob:')) else problems.append(asked.url)
      ),
    )
    page.goto(path.as_uri())
    opened.append(context)
    return page

  yield open_at
  for context in opened:
    context.close()
  assert not problems
