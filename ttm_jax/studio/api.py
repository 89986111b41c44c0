"""The studio's HTTP interface: JSON in and out, below `/studio`.

A page has a token, sent as the header `X-Session`. Since browsers do not send this header on their
own, other sites cannot act in a session. Every answer to a change is the new state; every problem
is one sentence, `{"error": ...}`, and leaves the project as it was.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from ttm_jax.errors import InputError, printable
from ttm_jax.studio import page_state
from ttm_jax.studio.actions import Studio, data_uri, whole
from ttm_jax.studio.examples import COUNT
from ttm_jax.studio.motion_edits import Edit
from ttm_jax.studio.project_file import png
from ttm_jax.studio.sessions import Session, SessionLost
from ttm_jax.studio.uploads import MOST_BYTES

PREFIX = '/studio'
WEB = Path(__file__).parent / 'web'
_JSON_BYTES = 8 * 2**20
_LOST = 'This session has ended. A new one was started.'
_log = logging.getLogger(__name__)

Asked = dict[str, Any]
Next = Callable[[Request], Awaitable[Response]]


class TooLarge(Exception):
  """Raised if a request has too many bytes."""


def add_studio(app: FastAPI, studio: Studio) -> None:
  """Add the interface and the files of the page to an app."""
  app.include_router(_routes(studio), prefix=f'{PREFIX}/api')
  app.mount(f'{PREFIX}/web', StaticFiles(directory=WEB), name='studio')
  app.middleware('http')(_with_headers)

  @app.exception_handler(InputError)
  def _(request: Request, error: InputError) -> JSONResponse:
    return JSONResponse({'error': printable(error)}, 422)

  @app.exception_handler(SessionLost)
  def _(request: Request, error: SessionLost) -> JSONResponse:
    return JSONResponse({'error': _LOST, 'lost': True}, 404)

  @app.exception_handler(TooLarge)
  def _(request: Request, error: TooLarge) -> JSONResponse:
    return JSONResponse({'error': f'that is more than {error} MB: use a smaller file'}, 413)

  @app.exception_handler(Exception)
  def _(request: Request, error: Exception) -> JSONResponse:
    _log.exception('%s failed', request.url.path)
    message = 'the studio made an error, which its log shows; your project is unchanged'
    return JSONResponse({'error': message}, 500)


async def _with_headers(request: Request, call: Next) -> Response:
  response = await call(request)
  if request.url.path.startswith(PREFIX):
    response.headers['X-Content-Type-Options'] = 'nosniff'
    response.headers['Referrer-Policy'] = 'no-referrer'
    # Revalidate files of the page, so that a new version of the studio is one in the browser.
    response.headers.setdefault('Cache-Control', 'no-cache')
  return response


async def _body(request: Request, most: int) -> bytes:
  content = bytearray()
  async for chunk in request.stream():
    content += chunk
    if len(content) > most:
      raise TooLarge(most >> 20)
  return bytes(content)


async def _file(request: Request) -> bytes:
  return await _body(request, MOST_BYTES)


async def _asked(request: Request) -> Asked:
  content = await _body(request, _JSON_BYTES)
  try:
    asked = json.loads(content or b'{}')
  except (ValueError, RecursionError) as error:
    raise InputError('the request is not valid JSON') from error
  if not isinstance(asked, dict):
    raise InputError('the request must be a JSON object')
  return asked


def _routes(studio: Studio) -> APIRouter:
  """Return the routes; each calls one method of the studio with the session's lock held."""
  routes = APIRouter()

  def session_of(x_session: Annotated[str, Header()] = '') -> Session:
    return studio.sessions.get(x_session)

  Mine = Annotated[Session, Depends(session_of)]
  Json = Annotated[Asked, Depends(_asked)]
  Content = Annotated[bytes, Depends(_file)]
  Have = Annotated[str, Header(alias='X-Have')]
  Name = Annotated[str, Header(alias='X-Name')]

  def answer(session: Session, have: str, act: Callable[[], Any], **more: Any) -> Asked:
    start = time.perf_counter()
    with session.lock:
      result = act()
      more |= {'notes_of_this': result} if isinstance(result, list) and result else {}
      found = page_state.state(studio, session, have.split(','))
    return {**found, **more, 'milliseconds': round(1000 * (time.perf_counter() - start), 1)}

  @routes.post('/session')
  def start_session() -> Asked:
    session = studio.sessions.create()
    return {'token': session.token, 'about': page_state.about(studio)}

  @routes.get('/about')
  def about(session: Mine) -> Asked:
    return page_state.about(studio)

  @routes.get('/state')
  def state(session: Mine, have: Have = '') -> Asked:
    return answer(session, have, lambda: None)

  @routes.get('/jobs')
  def jobs(session: Mine) -> list[Asked]:
    return page_state.jobs(studio, session)

  @routes.get('/examples')
  def examples(session: Mine) -> list[Asked]:
    made = [studio.example(number) for number in range(COUNT)]
    return [{'caption': e.caption, 'image': data_uri(png(e.picture), 'image/png')} for e in made]

  @routes.get('/picture')
  def picture(session: Mine) -> Response:
    return Response(png(session.project.scene.picture), media_type='image/png')

  @routes.post('/picture')
  def open_picture(session: Mine, content: Content, name: Name = '', have: Have = '') -> Asked:
    return answer(session, have, lambda: studio.open_picture(session, content, unquote(name)))

  @routes.post('/example')
  def open_example(session: Mine, asked: Json, have: Have = '') -> Asked:
    return answer(session, have, lambda: studio.open_example(session, asked.get('number', 0)))

  @routes.post('/project')
  def open_project(session: Mine, content: Content, have: Have = '') -> Asked:
    return answer(session, have, lambda: studio.open_project(session, content))

  @routes.post('/mask')
  def open_mask(session: Mine, content: Content, name: Name = '', have: Have = '') -> Asked:
    return answer(session, have, lambda: studio.open_mask(session, content, unquote(name)))

  @routes.post('/import/{kind}')
  def bring_in(
    session: Mine,
    kind: str,
    content: Content,
    name: Name = '',
    have: Have = '',
    object: str = '1',
  ) -> Asked:
    given = {'name': unquote(name), 'object': object}
    return answer(session, have, lambda: [studio.bring_in(session, kind, content, given)])

  # What a change of the page does, by the last part of its address.
  changes: dict[str, Callable[[Session, Asked], Any]] = {
    'paint': studio.paint,
    'object': lambda s, a: s.project.describe(
      whole(a, 'object'),
      **{name: a[name] for name in ('name', 'prompt', 'shown') if name in a},
    ),
    'remove_object': lambda s, a: s.project.remove_object(whole(a, 'object')),
    'texts': lambda s, a: s.project.say(a.get('caption'), a.get('motion')),
    'edit': lambda s, a: s.project.edit(Edit.from_json(a.get('edit'))),
    'handle': lambda s, a: s.project.handle(
      str(a.get('kind')), whole(a, 'object'), whole(a, 'frame'), a.get('by')
    ),
    'replace_edit': lambda s, a: s.project.replace_edit(
      whole(a, 'index'), Edit.from_json(a.get('edit'))
    ),
    'remove_edit': lambda s, a: s.project.remove_edit(whole(a, 'index')),
    'keyframe': lambda s, a: s.project.move_keyframe(
      whole(a, 'index'),
      whole(a, 'frame'),
      None if a.get('to') is None else whole(a, 'to'),
    ),
    'undo': lambda s, a: s.project.undo(),
    'redo': lambda s, a: s.project.redo(),
    'pick': lambda s, a: studio.pick(s, whole(a, 'proposal')),
    'still': lambda s, a: studio.be_still(s),
    'return': lambda s, a: studio.go_back(s, whole(a, 'render')),
    'find': lambda s, a: studio.find(s),
    'segment': lambda s, a: studio.segment(s, a),
    'propose': lambda s, a: studio.propose(s, a),
    'render': lambda s, a: studio.render(s, a),
  }

  @routes.post('/change/{what}')
  def change(session: Mine, what: str, asked: Json, have: Have = '') -> Asked:
    if what not in changes:
      raise InputError(f'there is no change {what!r:.40}')
    return answer(session, have, lambda: changes[what](session, asked))

  @routes.post('/cancel')
  def cancel(session: Mine, asked: Json) -> list[Asked]:
    for job in session.jobs:
      if job.id == asked.get('job'):
        studio.queue.cancel(job)
    return page_state.jobs(studio, session)

  @routes.post('/path')
  def path(session: Mine, asked: Json) -> list[list[float]]:
    with session.lock:
      return studio.path(session, asked)

  @routes.get('/proposal/{number}')
  def proposal(session: Mine, number: int) -> Response:
    return Response(studio.proposal_animation(session, number), media_type='image/webp')

  @routes.get('/render/{number}/{what}')
  def render(session: Mine, number: int, what: str) -> Response:
    content, columns = studio.render_sheet(session, number, what)
    return Response(content, media_type='image/webp', headers={'X-Columns': str(columns)})

  @routes.get('/export/{kind}')
  def export(session: Mine, kind: str, number: int | None = None) -> Response:
    with session.lock:
      content, media, name = studio.export(session, kind, number)
    disposition = {'Content-Disposition': f'attachment; filename="{name}"'}
    return Response(content, media_type=media, headers=disposition)

  return routes
