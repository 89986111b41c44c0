"""The studio as a Gradio app: Gradio is the page and its server, the editor is our own element."""

import argparse
import base64
import contextlib
import hmac
import os
import secrets

from ttm_jax.studio.actions import Studio
from ttm_jax.studio.server_flags import listening_at

# Gradio reads this when it is imported; nothing about the use of the studio leaves the machine.
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'

import gradio
import uvicorn
from fastapi import FastAPI, Request, Response
from gradio.networking import setup_tunnel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ttm_jax.studio.api import PREFIX, add_studio

TITLE = 'Through-The-Mask studio'
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
_HEAD = f"""
<meta name="description" content="See, propose, edit and render motion.">
<link rel="icon" href="{PREFIX}/web/icon.svg">
<link rel="modulepreload" href="{PREFIX}/web/main.js">
<script type="module" src="{PREFIX}/web/main.js"></script>
"""
# The editor fills the page: no margins and no footer of Gradio.
_CSS = """
body, gradio-app { background: #14161a !important; }
gradio-app > div, .gradio-container, .gradio-container main, .gradio-container .wrap {
  padding: 0 !important; margin: 0 !important; max-width: none !important; gap: 0 !important;
}
gradio-app footer { display: none !important; }
"""


def serve(studio: Studio, args: argparse.Namespace) -> None:
  """Serve a studio until it is interrupted.

  Raises:
    InputError: If the port is taken.
  """
  with listening_at(args.host, args.port) as listening, contextlib.closing(studio):
    port = listening.getsockname()[1]
    app = app_of(studio, args.host, args.auth, public=args.share)
    host = f'[{args.host}]' if ':' in args.host else args.host
    print(f'The studio is at http://{host}:{port}', flush=True)
    if args.share:
      link = setup_tunnel(args.host, port, secrets.token_urlsafe(32), None, None)
      print(f'For a week, it is also at {link}', flush=True)
    config = uvicorn.Config(app, log_level='warning', access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def app_of(
  studio: Studio, host: str = '127.0.0.1', auth: str = '', public: bool = False
) -> FastAPI:
  """Return the app: the studio's interface, and Gradio's page around the editor.

  Args:
    studio: The studio.
    host: Address that the server listens at. Below a loopback address, requests for other hosts are
      refused, so that no web site can reach the studio by a name of its own for this machine.
    auth: NAME:PASSWORD, or nothing.
    public: Whether requests come through a tunnel, for any host.
  """
  app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
  add_studio(app, studio)
  with gradio.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
    gradio.HTML('<ttm-studio></ttm-studio>', padding=False)
  app = gradio.mount_gradio_app(
    app,
    page,
    path='/',
    # The default theme loads its fonts from another server.
    theme=gradio.themes.Base(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace']),
    css=_CSS,
    head=_HEAD,
    footer_links=[],
    ssr_mode=False,
    enable_monitoring=False,
    max_file_size=1,
  )
  if auth:
    app.middleware('http')(_password(auth))
  if host in _LOOPBACK and not public:
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=['127.0.0.1', 'localhost', '[::1]'])
  return app


def _password(auth: str):
  """Return a middleware that asks for a name and a password, for every address."""
  wanted = base64.b64encode(auth.encode()).decode()

  async def check(request: Request, call) -> Response:
    given = request.headers.get('authorization', '').removeprefix('Basic ')
    if hmac.compare_digest(given.encode(), wanted.encode()):
      return await call(request)
    asking = {'WWW-Authenticate': f'Basic realm="{TITLE}", charset="UTF-8"'}
    return Response('a name and a password are needed', 401, asking)

  return check
