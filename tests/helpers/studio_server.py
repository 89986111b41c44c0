"""A studio that a browser can open."""

import contextlib
import threading

import uvicorn

from ttm_jax.studio.actions import Studio
from ttm_jax.studio.shell import app_of


@contextlib.contextmanager
def serving(backend, finder=None, work='off', port=0):
  """Serve a studio in a thread, by default at a free port; yield its address."""
  studio = Studio(backend, finder, time_limit=120, work=str(work))
  config = uvicorn.Config(app_of(studio), port=port, log_level='error', timeout_graceful_shutdown=2)
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  try:
    while not server.started:
      assert thread.is_alive()
      threading.Event().wait(0.02)
    yield f'http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}'
  finally:
    server.should_exit = True
    thread.join(20)
    studio.close()
