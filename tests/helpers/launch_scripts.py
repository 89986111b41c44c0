"""Run the launch scripts with fake commands that record their calls."""

import os
import shlex
import subprocess

import pytest

from tests.helpers.cli import ROOT

LAUNCH = ROOT / 'launch'
TRAIN = ['--config=configs/stage1_dit.py', '--workdir=gs://bucket/runs/a', '--config.seed=1 2']
# Records the call, and prints the next line of a file with its name, or exits with the code there.
PLAYED = """#!/bin/bash
printf '%q ' "$(basename "$0")" "$@" >> "$CALLS/all"; echo >> "$CALLS/all"
answers="$CALLS/$(basename "$0")-$1"
[ -f "$answers" ] || answers="$CALLS/$(basename "$0")"
[ -f "$answers" ] || exit 0
answer=$(head -n 1 "$answers"); sed -i 1d "$answers"
case $answer in
  exit*) exit "${answer#exit }" ;;
  *) echo "$answer" ;;
esac
"""


@pytest.fixture
def played(tmp_path):
  """Run a script; return its result and the recorded calls."""
  names = ('xpk', 'gcloud', 'sbatch', 'srun', 'scontrol', 'scancel', 'sleep')
  for name in names:
    path = tmp_path / 'bin' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLAYED)
    path.chmod(0o755)

  def run(script, *arguments, **answers):
    for name, lines in answers.items():
      (tmp_path / name.replace('_', '-')).write_text('\n'.join(lines) + '\n')
    env = {**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'CALLS': str(tmp_path)}
    ended = subprocess.run(
      [script, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    notes = tmp_path / 'all'
    calls = [shlex.split(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    return ended, calls

  return run


SCRIPTS = {
  'tpu_xpk.sh': ['--name', 'a', '--cluster', 'c', '--type', 'v5p-64', '--image', 'i'],
  'tpu_queued.sh': ['--name', 'a', '--zone', 'z', '--type', 'v5litepod-16', '--image', 'i'],
  'slurm_gpu.sh': ['--time', '1:00:00'],
}
