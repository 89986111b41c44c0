"""Scripts that start runs elsewhere, with fake commands that record their calls."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch import local
from tests.helpers.cli import ROOT
from tests.helpers.launch_scripts import LAUNCH, SCRIPTS, TRAIN, played

__all__ = ['played']  # A fixture.


def test_shell_scripts_are_clean(tmp_path):
  check = shutil.which('shellcheck', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
  assert check, "shellcheck is missing: pip install -e '.[dev]'"
  made = subprocess.run(
    [LAUNCH / 'slurm_gpu.sh', '--time', '1:00:00', '--partition', 'p', '--dry-run', '--', *TRAIN],
    capture_output=True,
    text=True,
    check=True,
  )
  (tmp_path / 'job.sh').write_text(made.stdout)
  scripts = [*map(str, LAUNCH.glob('*.sh')), str(tmp_path / 'job.sh')]
  ended = subprocess.run([check, *scripts], capture_output=True, text=True)
  assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_dry_run_calls_nothing(played, name):
  ended, calls = played(LAUNCH / name, *SCRIPTS[name], '--dry-run', '--', *TRAIN)
  assert ended.returncode == 0, ended.stderr
  assert calls == []
  assert 'python -m ttm_jax.train' in ended.stdout.replace('\\', '')


@pytest.mark.parametrize('name', SCRIPTS)
def test_what_is_missing_is_told(played, name):
  for arguments in ([], [*SCRIPTS[name], '--bogus', 'x', '--', *TRAIN], SCRIPTS[name]):
    ended, calls = played(LAUNCH / name, *arguments)
    assert ended.returncode == 2 and f'launch/{name}' in ended.stderr
    assert '--dry-run' in ended.stderr and not calls
  ended, calls = played(LAUNCH / name, *SCRIPTS[name], '--', '--config=configs/stage1_dit.py')
  assert ended.returncode == 2 and ended.stderr.startswith('error: give a --workdir=')
  assert not calls


def test_xpk(played):
  options = ['--slices', '2', '--project', 'p', '--zone', 'z', '--grace', '90']
  ended, (call,) = played(LAUNCH / 'tpu_xpk.sh', *SCRIPTS['tpu_xpk.sh'], *options, '--', *TRAIN)
  assert ended.returncode == 0
  assert call[:3] == ['xpk', 'workload', 'create']
  given = dict(option.split('=', 1) for option in call[3:])
  assert shlex.split(given.pop('--command')) == ['python', '-m', 'ttm_jax.train', *TRAIN]
  assert given == {
    '--workload': 'a',
    '--cluster': 'c',
    '--tpu-type': 'v5p-64',
    '--num-slices': '2',
    '--docker-image': 'i',
    '--max-restarts': '100',
    '--restart-on-exit-codes': '1',
    '--termination-grace-period-seconds': '90',
    '--project': 'p',
    '--zone': 'z',
  }


def verbs(calls):
  """Return the verbs of the gcloud calls, without the waiting."""
  return [call[4] for call in calls if call[0] == 'gcloud']


def test_queued_resources(played):
  ended, calls = played(
    LAUNCH / 'tpu_queued.sh',
    *SCRIPTS['tpu_queued.sh'],
    '--spot',
    '--',
    *TRAIN,
    # None, then waiting, then machines; they are lost and requested again; the run succeeds.
    gcloud=['exit 1', '', 'WAITING', 'ACTIVE', 'exit 134', 'SUSPENDED', '', 'exit 1', '', 'ACTIVE'],
  )
  assert ended.returncode == 0, ended.stderr
  assert verbs(calls) == [
    *('describe', 'create', 'describe', 'describe', 'ssh'),
    *('describe', 'delete', 'describe', 'create', 'describe', 'ssh', 'delete'),
  ]
  assert 'attempt 1 of 10 ended with 134' in ended.stderr
  create, ssh = (next(c for c in calls if verb in c) for verb in ('create', 'ssh'))
  assert create[5] == 'a' and {'--node-id=a', '--zone=z', '--spot'} <= set(create)
  assert '--runtime-version=v2-alpha-tpuv5-lite' in create
  assert '--worker=all' in ssh
  container = shlex.split(ssh[-1].partition('; ')[2])
  assert container[-len(TRAIN) - 4 :] == ['i', 'python', '-m', 'ttm_jax.train', *TRAIN]


@pytest.mark.parametrize('code', [2, 3])
def test_what_another_attempt_does_not_mend(played, code):
  ended, calls = played(
    LAUNCH / 'tpu_queued.sh',
    *SCRIPTS['tpu_queued.sh'],
    '--keep',
    '--',
    *TRAIN,
    gcloud=['ACTIVE', f'exit {code}'],
  )
  assert ended.returncode == code and verbs(calls) == ['describe', 'ssh']


def test_an_unknown_type(played):
  arguments = [x if x != 'v5litepod-16' else 'v9-1' for x in SCRIPTS['tpu_queued.sh']]
  ended, calls = played(LAUNCH / 'tpu_queued.sh', *arguments, '--', *TRAIN)
  assert ended.returncode == 2 and 'give v5litepod-N, v5p-N or v6e-N' in ended.stderr and not calls


@pytest.fixture
def slurm_job(played, tmp_path):
  """Return the submitted script as a file."""
  arguments = [*SCRIPTS['slurm_gpu.sh'], '--nodes', '4', '--account', 'x', '--', *TRAIN]
  made, _ = played(LAUNCH / 'slurm_gpu.sh', arguments[0], arguments[1], '--dry-run', *arguments[2:])
  path = tmp_path / 'job.sh'
  path.write_text(made.stdout)
  path.chmod(0o755)
  return path


@pytest.mark.parametrize(
  'code, before, again',
  [(0, 0, False), (2, 0, False), (3, 0, False), (1, 0, True), (134, 99, True), (134, 100, False)],
)
def test_slurm(played, slurm_job, monkeypatch, code, before, again):
  text = slurm_job.read_text()
  for line in ('--nodes=4', '--gpus-per-node=8', '--signal=B:TERM@300', '--requeue', '--account=x'):
    assert f'#SBATCH {line}\n' in text
  monkeypatch.setenv('SLURM_JOB_ID', '77')
  monkeypatch.setenv('SLURM_RESTART_COUNT', str(before))
  ended, calls = played(slurm_job, srun=[f'exit {code}'])
  assert ended.returncode == code
  srun = calls[0]
  assert srun[:3] == ['srun', '--kill-on-bad-exit=1', '--label'] and srun[-3:] == TRAIN
  assert (['scontrol', 'requeue', '77'] in calls) == again


def test_slurm_saves_before_its_time_is_over(played, slurm_job, tmp_path):
  # The fake run ends when it is signaled.
  (tmp_path / 'bin' / 'srun').write_text(
    '#!/bin/bash\necho srun >> "$CALLS/all"; while [ ! -f "$CALLS/told" ]; do :; done\n'
  )
  (tmp_path / 'bin' / 'scancel').write_text(
    '#!/bin/bash\necho scancel "$@" >> "$CALLS/all"; touch "$CALLS/told"\n'
  )
  env = {**os.environ, 'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'CALLS': str(tmp_path)}
  job = subprocess.Popen([slurm_job], env=env | {'SLURM_JOB_ID': '77'})
  end = time.monotonic() + 60
  while not (tmp_path / 'all').exists() and time.monotonic() < end:
    time.sleep(0.02)
  job.send_signal(signal.SIGTERM)
  job.wait(60)
  calls = (tmp_path / 'all').read_text().splitlines()
  assert calls == ['srun', 'scancel --signal=TERM 77.0', 'scontrol requeue 77 ']


def test_kubernetes():
  service, _, job = yaml.safe_load_all((LAUNCH / 'kubernetes.yaml').read_text())
  assert service['spec']['clusterIP'] == 'None'
  pod = job['spec']['template']['spec']
  assert pod['subdomain'] == service['metadata']['name']
  assert service['spec']['selector'] == {'job-name': job['metadata']['name']}
  env = {e['name']: e['value'] for e in pod['containers'][0]['env']}
  name = job['metadata']['name']
  assert env['TTM_COORDINATOR'].startswith(f'{name}-0.{service["metadata"]["name"]}:')
  assert int(env['TTM_PROCESSES']) == job['spec']['completions'] == job['spec']['parallelism']


def test_the_container_has_what_is_run():
  text = (LAUNCH / 'Containerfile').read_text()
  for line in text.splitlines():
    if line.startswith('COPY'):
      *sources, _ = line.split()[1:]
      assert all((ROOT / source).exists() for source in sources)


# Several processes on one machine.


def run_local(*arguments, **options):
  return subprocess.run(
    [sys.executable, '-m', 'launch.local', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    **options,
  )


SHOW = 'import os; print(os.environ["TTM_PROCESS"], os.environ["TTM_PROCESSES"])'


def test_local_processes_know_their_places():
  ended = run_local('--processes=3', '--', sys.executable, '-c', SHOW)
  assert ended.returncode == 0, ended.stderr
  assert sorted(ended.stdout.splitlines()) == ['[0] 0 3', '[1] 1 3', '[2] 2 3']


def test_local_dry_run():
  ended = run_local('--processes=2', '--devices=4', '--dry-run', '--', 'python', '-m', 'x', 'a b')
  lines = ended.stdout.splitlines()
  assert len(lines) == 2 and all("python -m x 'a b'" in line for line in lines)
  assert all('--xla_force_host_platform_device_count=4' in line for line in lines)


@pytest.mark.parametrize('how, code', [('sys.exit(3)', 3), ('os.kill(os.getpid(), 9)', 137)])
def test_local_tells_the_first_failure(how, code):
  program = f'import os, sys\nif os.environ["TTM_PROCESS"] == "1": {how}'
  ended = run_local('--processes=2', '--', sys.executable, '-c', program)
  assert (ended.returncode, ended.stdout) == (code, f'[1] ended with exit code {code}\n')


def test_local_passes_signals_on():
  program = (
    'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));'
    'print("ready", flush=True); time.sleep(100); sys.exit(5)'
  )
  job = subprocess.Popen(
    [sys.executable, '-m', 'launch.local', '--processes=2', '--', sys.executable, '-c', program],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert {job.stdout.readline() for _ in range(2)} == {'[0] ready\n', '[1] ready\n'}
  job.send_signal(signal.SIGTERM)
  assert job.wait(60) == 0
  job.stdout.close()


def test_gpus_are_dealt_out():
  places = local.environments(2, 1, gpus=['0', '1', '4', '5'])
  assert [place['CUDA_VISIBLE_DEVICES'] for place in places] == ['0,1', '4,5']
  assert all('XLA_FLAGS' not in place for place in places)
