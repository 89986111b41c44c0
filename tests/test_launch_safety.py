"""Allowed options of the launch scripts, and the privileges of jobs."""

import re
import subprocess

import pytest
import yaml

from tests.helpers.launch_scripts import LAUNCH, SCRIPTS, TRAIN, played

__all__ = ['played']  # A fixture.

# Values that would become a line, a word or a command of their own.
INJECTED = [
  'a\n#SBATCH --wrap=reboot',
  'a\nreboot',
  'a\rb',
  '$(reboot)',
  '`reboot`',
  'a b',
  'a;reboot',
  'a"b',
  "a'b",
  'a\\',
  '--flag',
  '-x',
  'a|b',
  'a&b',
  '',
]
OPTIONS = {
  'tpu_xpk.sh': [
    'name',
    'cluster',
    'type',
    'image',
    'slices',
    'project',
    'zone',
    'restarts',
    'grace',
  ],
  'tpu_queued.sh': ['name', 'type', 'zone', 'image', 'project', 'attempts'],
  'slurm_gpu.sh': ['name', 'nodes', 'gpus', 'time', 'partition', 'account', 'grace'],
}


def with_option(script, option, value):
  given = dict(zip(SCRIPTS[script][::2], SCRIPTS[script][1::2], strict=True))
  given[f'--{option}'] = value
  return [x for pair in given.items() for x in pair]


@pytest.mark.parametrize(
  'script, option', [(script, option) for script, options in OPTIONS.items() for option in options]
)
def test_options_are_words(played, script, option):
  for value in INJECTED:
    optional = option in ('project', 'zone', 'partition', 'account')
    if not value and optional:
      continue  # Treated as not given.
    for dry in ([], ['--dry-run']):
      ended, calls = played(
        LAUNCH / script, *with_option(script, option, value), *dry, '--', *TRAIN
      )
      assert ended.returncode == 2 and not calls, (value, ended.stdout)
      assert ended.stdout == ''
      if value:
        assert ended.stderr.startswith(f'error: --{option} ') and ended.stderr.count('\n') == 1


@pytest.mark.parametrize('script', SCRIPTS)
@pytest.mark.parametrize('argument', ['--config.seed=1\n#SBATCH --wrap=x', 'a\rb'])
def test_arguments_have_no_line_ends(played, script, argument):
  ended, calls = played(LAUNCH / script, *SCRIPTS[script], '--', *TRAIN, argument)
  assert ended.returncode == 2 and not calls
  assert ended.stderr.startswith('error: an argument has a line end') and ended.stdout == ''


@pytest.mark.parametrize('script', SCRIPTS)
def test_arguments_are_data(played, tmp_path, script):
  """Any other text in an argument reaches the program unchanged, and runs nothing."""
  odd = f"""--config.x=$(touch {tmp_path}/ran) `touch {tmp_path}/ran`; '" \\ * ~ # & | < >"""
  ended, _ = played(LAUNCH / script, *SCRIPTS[script], '--dry-run', '--', *TRAIN, odd)
  assert ended.returncode == 0, ended.stderr
  if script == 'slurm_gpu.sh':
    job = tmp_path / 'job.sh'
    job.write_text(ended.stdout)
    job.chmod(0o755)
    _, calls = played(job)
    assert next(call for call in calls if call[0] == 'srun')[-1] == odd
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'option, value',
  [
    ('name', 'dit-stage1_v1.2'),
    ('gpus', 'h100:8'),
    ('nodes', '2-4'),
    ('time', '2-12:00:00'),
    ('time', '90'),
    ('time', 'UNLIMITED'),
    ('partition', 'gpu,gpu_long'),
    ('account', 'lab@project-1'),
  ],
)
def test_usual_values_of_slurm(played, option, value):
  ended, _ = played(
    LAUNCH / 'slurm_gpu.sh', *with_option('slurm_gpu.sh', option, value), '--dry-run', '--', *TRAIN
  )
  assert ended.returncode == 0 and f'={value}\n' in ended.stdout


def test_an_image_may_be_named_by_its_digest(played):
  image = 'eu.example.com:5000/lab/ttm_jax@sha256:' + 'a' * 64
  ended, (call,) = played(
    LAUNCH / 'tpu_xpk.sh', *with_option('tpu_xpk.sh', 'image', image), '--', *TRAIN
  )
  assert ended.returncode == 0 and f'--docker-image={image}' in call


def test_a_script_is_found_by_a_link(tmp_path):
  (tmp_path / 'submit').symlink_to(LAUNCH / 'slurm_gpu.sh')
  ended = subprocess.run(
    [tmp_path / 'submit', '--time', '1:00:00', '--dry-run', '--', *TRAIN],
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 0, ended.stderr


def test_pods_have_few_rights_and_reach_only_each_other():
  service, policy, job = yaml.safe_load_all((LAUNCH / 'kubernetes.yaml').read_text())
  assert policy['kind'] == 'NetworkPolicy'
  labels = service['spec']['selector']
  spec = policy['spec']
  assert spec['podSelector']['matchLabels'] == labels
  assert set(spec['policyTypes']) == {'Ingress', 'Egress'}
  assert spec['ingress'] == [{'from': [{'podSelector': {'matchLabels': labels}}]}]
  assert all(rule.keys() & {'to', 'ports'} for rule in spec['egress'])
  pod = job['spec']['template']['spec']
  assert pod['securityContext']['runAsNonRoot'] is True
  assert pod['securityContext']['seccompProfile'] == {'type': 'RuntimeDefault'}
  assert pod['automountServiceAccountToken'] is False
  assert 'hostNetwork' not in pod
  (container,) = pod['containers']
  rights = container['securityContext']
  assert rights['allowPrivilegeEscalation'] is False and rights['privileged'] is False
  assert rights['readOnlyRootFilesystem'] is True and rights['capabilities'] == {'drop': ['ALL']}
  mounts = {mount['name'] for mount in container['volumeMounts']}
  assert mounts == {volume['name'] for volume in pod['volumes']}
  image = (LAUNCH / 'Containerfile').read_text()
  assert f'--uid {pod["securityContext"]["runAsUser"]} ' in image


def test_the_base_of_the_container_is_pinned_and_its_user_is_not_root():
  lines = (LAUNCH / 'Containerfile').read_text().splitlines()
  (base,) = (line for line in lines if line.startswith('ARG BASE='))
  assert re.fullmatch(r'ARG BASE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}', base)
  assert [line for line in lines if line.startswith('FROM ')] == ['FROM ${BASE}']
  user = lines.index('USER ${RUN_AS}')
  assert 'ARG RUN_AS=10001' in lines[:user]
  assert not [line for line in lines[user:] if line.startswith(('RUN', 'COPY', 'ADD'))]
