"""A studio of the stub backend, and a page of it without a browser."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.helpers.studio_client import Page
from tests.helpers.studio_stub import StubBackend, StubFinder
from ttm_jax.studio.actions import Studio
from ttm_jax.studio.api import add_studio


@pytest.fixture
def backend():
  return StubBackend()


@pytest.fixture
def studio(backend):
  made = Studio(backend, StubFinder(), time_limit=60)
  yield made
  backend.gate.set()
  made.close()


@pytest.fixture
def client(studio):
  app = FastAPI()
  add_studio(app, studio)
  return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def page(client):
  return Page(client)


@pytest.fixture
def new_page(client):
  return lambda: Page(client)
