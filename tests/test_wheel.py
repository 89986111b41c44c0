"""The package as users install it: a wheel in a fresh environment, run from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command, folder: Path, limit: int = 3600, **env: str) -> str:
  """Run a command without the paths of this checkout, and return what it prints."""
  clean = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'XLA_FLAGS')}
  ended = subprocess.run(
    [*map(str, command)],
    cwd=folder,
    env=clean | env,
    capture_output=True,
    text=True,
    timeout=limit,
  )
  assert ended.returncode == 0, ended.stdout + ended.stderr
  return ended.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
  """The wheel, built from a copy of the files that git knows."""
  source = tmp_path_factory.mktemp('source')
  files = run('git', 'ls-files', '-z', folder=ROOT).split('\0')
  for name in filter(None, files):
    if name.startswith(('ttm_jax', 'data_tools', 'configs')) or '/' not in name:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(ROOT / name, source / name, follow_symlinks=False)
  out = tmp_path_factory.mktemp('wheel')
  pip = sys.executable, '-m', 'pip', '--disable-pip-version-check'
  run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', out, source, folder=out)
  (found,) = out.glob('*.whl')
  return found


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
  """The commands of an environment with the wheel, and the dependencies of this one."""
  env = tmp_path_factory.mktemp('env')
  run(sys.executable, '-m', 'venv', '--without-pip', env, folder=env)
  python = env / 'bin' / 'python'
  pip = sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', python
  run(*pip, 'install', '--no-deps', '--no-index', wheel, folder=env)
  # Reading the dependencies from here instead of installing them again saves minutes. Files .pth of
  # that folder, such as that of an editable installation, are not read.
  where = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', folder=env)
  (Path(where.strip()) / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
  return env / 'bin'


def test_what_the_wheel_holds(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert {'ttm_jax', 'data_tools'} == {top for top in tops if not top.endswith('.dist-info')}
  assert 'ttm_jax/configs/demo_stage1.py' in names
  assert any(name.endswith('.html.j2') for name in names)
  assert wheel.name.startswith('ttm_jax-0.2.0-')


def test_the_demo_runs_from_an_empty_folder(installed, tmp_path):
  python = installed / 'python'
  place = run(python, '-c', 'import ttm_jax; print(ttm_jax.__file__)', folder=tmp_path)
  assert Path(place.strip()).is_relative_to(installed.parent)
  said = run(installed / 'ttm-demo', '--help', folder=tmp_path)
  assert '--quick' in said and 'stage 2' in said
  assert list(tmp_path.iterdir()) == []
  said = run(installed / 'ttm-demo', '--quick', folder=tmp_path, JAX_PLATFORMS='cpu')
  assert 'Open runs/demo-quick/report.html' in said
  figures = json.loads((tmp_path / 'runs' / 'demo-quick' / 'metrics.json').read_text())
  assert figures['seconds']['all'] > 0
  assert (tmp_path / 'runs' / 'demo-quick' / 'report.html').stat().st_size > 10_000
