"""Flags of how runs are sampled: solver, and savings that need no training (docs/sampling.md)."""

import argparse
from typing import Any

from ttm_jax.errors import InputError

SOLVERS = ('euler', 'ddim', 'unipc', 'dpmpp')
_SAMPLE = ('visual_scale', 'text_scale', 'guidance_interval', 'guidance_every', 'reuse')


def add_sampling_flags(add_argument: Any) -> None:
  """Add the flags by the method `add_argument` of a parser or group; all default to None."""
  add_argument(
    '--solver',
    choices=SOLVERS,
    help='unipc and dpmpp have order 2 and need fewer steps; euler (flow matching) and ddim'
    ' (diffusion) have order 1; default: as configured',
  )
  add_argument(
    '--guidance_interval',
    nargs=2,
    type=float,
    metavar=('LOW', 'HIGH'),
    help='noise levels with guidance, in 0 to 1; a step outside evaluates the network once instead'
    ' of three times; default: all',
  )
  add_argument(
    '--guidance_every',
    type=int,
    metavar='STEPS',
    help='compute what guidance changes every so many steps, and keep it in between; default 1',
  )
  add_argument(
    '--reuse',
    type=float,
    metavar='CHANGE',
    help='keep the predicted data while they are expected to change by less than this, relative to'
    ' their norm, such as 0.05; default 0: evaluate the network at every step',
  )


def add_mesh_flag(add_argument: Any) -> None:
  """Add --mesh by the method `add_argument` of a parser or group."""
  add_argument(
    '--mesh',
    help='AXIS=SIZE,...: shard parameters and videos over all devices, with the axes data, fsdp,'
    ' sequence and tensor, such as fsdp=2,tensor=4; default: one device',
  )


def mesh_sizes_of(args: argparse.Namespace) -> dict[str, int] | None:
  """Return the sizes of the axes that --mesh names, or None.

  Raises:
    InputError: If the flag has another form.
  """
  if args.mesh is None:
    return None
  sizes = {}
  for part in args.mesh.split(','):
    axis, _, size = part.partition('=')
    if not (axis and size.isdecimal() and len(size) < 7 and int(size)) or axis in sizes:
      raise InputError(f'--mesh {args.mesh}: write AXIS=SIZE,... such as fsdp=2,tensor=4')
    sizes[axis] = int(size)
  return sizes


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
  """Return guidance scales and savings of flags, as in the section `sample` of a configuration."""
  given = {name: getattr(args, name) for name in _SAMPLE}
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in given.items()
    if value is not None
  }
