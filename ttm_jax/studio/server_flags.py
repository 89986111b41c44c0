"""Flags of the studio's server, and the socket that they ask for; imports nothing heavy."""

import argparse
import contextlib
import os
import socket
from pathlib import Path

from ttm_jax.errors import InputError

PORT = 7860
TIME_LIMIT = 3600.0  # Seconds that a proposal or a video may take.
OFF = 'off'  # Value of --work: sessions end with the server.


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Add the flags of the server."""
  group = parser.add_argument_group('server')
  add = group.add_argument
  add(
    '--host',
    default=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'),
    help='address to listen at; default 127.0.0.1, which only this machine reaches',
  )
  port = os.environ.get('GRADIO_SERVER_PORT', str(PORT))
  add('--port', type=int, default=int(port), help=f'port; default {PORT}')
  add('--auth', default='', help='NAME:PASSWORD that the page asks for; default: none')
  add('--share', action='store_true', help="a public link by Gradio's server; needs --auth")
  add(
    '--time_limit',
    type=float,
    default=TIME_LIMIT,
    help=f'seconds that a proposal or a video may take; default {TIME_LIMIT:g}',
  )
  add(
    '--work',
    default=work_folder(),
    metavar='FOLDER',
    help='folder in which the projects of sessions are kept, so that a page finds its own again'
    ' after a restart; off keeps them in memory only; default ~/.local/state/ttm_jax/studio',
  )


def work_folder() -> str:
  """Return where sessions are kept by default: the user's folder for the state of programs."""
  state = os.environ.get('XDG_STATE_HOME') or Path.home() / '.local' / 'state'
  return str(Path(state) / 'ttm_jax' / 'studio')


def check_flags(args: argparse.Namespace) -> None:
  """Check the flags of the server before any model is loaded.

  Raises:
    InputError: If a flag is invalid, or the port is taken.
  """
  if args.auth and not all(args.auth.partition(':')[::2]):
    raise InputError('--auth: write NAME:PASSWORD')
  if args.share and not args.auth:
    raise InputError('--share lets everyone who has the link in: give --auth NAME:PASSWORD, too')
  if not args.time_limit > 0:
    raise InputError(f'--time_limit {args.time_limit:g}: must be above 0')
  if not 0 <= args.port < 2**16:
    raise InputError(f'--port {args.port}: must be from 0 to {2**16 - 1}')
  with contextlib.closing(listening_at(args.host, args.port)):
    pass


def listening_at(host: str, port: int) -> socket.socket:
  """Return a socket that is bound to an address.

  Raises:
    InputError: If the address cannot be had.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  found = socket.socket(family)
  found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    found.bind((host, port))
  except OSError as error:
    found.close()
    raise InputError(
      f'cannot listen at {host}:{port} ({error.strerror}): give another --port'
    ) from error
  return found
