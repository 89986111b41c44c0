"""constraints.txt pins every package that an installation includes."""

import importlib.metadata
import pathlib
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
# Pinned without their dependencies, which only machines with accelerators install.
ELSEWHERE = {'gcsfs', 'wandb'}


def constraints(python):
  """Return the pins for a version of Python, by name."""
  found = {}
  for line in (ROOT / 'constraints.txt').read_text().splitlines():
    if not line or line.startswith('#'):
      continue
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate({'python_version': python}):
      continue
    name = canonicalize_name(requirement.name)
    assert name not in found, f'{name} is pinned twice for {python}'
    (pin,) = requirement.specifier
    assert pin.operator == '==', line
    found[name] = pin.version
  return found


def wanted():
  """Return the requirements of pyproject.toml, for all extras."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  extras = project['optional-dependencies'].values()
  listed = [*project['dependencies'], *(text for extra in extras for text in extra)]
  return [Requirement(text) for text in listed if not text.startswith('ttm_jax[')]


def installed():
  """Return the installed versions of these requirements and of their dependencies."""
  found, waiting = {}, [(r.name, extra) for r in wanted() for extra in ('', *r.extras)]
  seen = set()
  while waiting:
    name, extra = waiting.pop()
    name = canonicalize_name(name)
    if (name, extra) in seen:
      continue
    seen.add((name, extra))
    try:
      package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
      continue  # From an extra that is not installed.
    found[name] = package.version.split('+')[0]
    for requirement in map(Requirement, package.requires or []):
      if not requirement.marker or requirement.marker.evaluate({'extra': extra}):
        waiting += [(requirement.name, other) for other in ('', *requirement.extras)]
  return found


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
def test_every_requirement_is_pinned_to_a_version_that_fits(python):
  pins = constraints(python)
  for requirement in wanted():
    name = canonicalize_name(requirement.name)
    assert name in pins and requirement.specifier.contains(pins[name]), requirement
  assert pins.keys() >= ELSEWHERE | {'libtpu', 'jaxlib', 'jax-cuda12-plugin', 'jax-cuda12-pjrt'}


def test_what_is_installed_is_pinned():
  pins = constraints(f'{sys.version_info[0]}.{sys.version_info[1]}')
  here = installed()
  assert len(here) > 50
  assert not {name: version for name, version in here.items() if name not in pins}
