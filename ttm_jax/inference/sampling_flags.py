"""Flags of how runs are sampled: solver, and savings that need no training (docs/sampling.md)."""

import argparse
from typing import Any

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


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
  """Return guidance scales and savings of flags, as in the section `sample` of a configuration."""
  given = {name: getattr(args, name) for name in _SAMPLE}
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in given.items()
    if value is not None
  }
