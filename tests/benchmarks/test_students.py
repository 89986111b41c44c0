"""The table of few steps and students."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import page, students
from tests.helpers import tiny
from ttm_jax.errors import InputError

SETTINGS = (
  students.Setting('teacher, 2 steps', 2),
  students.Setting('teacher, 1 step', 1),
  students.Setting('unipc, 5 steps', 5, 'unipc'),
  students.Setting('guidance every 3', 10, None, {'guidance_every': 3}, guided=True),
)


def asked(*words):
  return students.parser().parse_args([*map(str, words)])


@pytest.mark.slow
def test_rows_of_runs_and_students(stage1, stage2, clips, tmp_path, monkeypatch, capsys):
  out = tmp_path / 'students.json'
  pair = ('--runs', stage1, stage2)
  words = [*pair, *pair, '--clips', clips, '--count', 3, '--batch', 2, '--draws', 20, '--out', out]
  words += ['--student', 'same', '-', stage2, '--student', 'same', '-', stage2]
  monkeypatch.setattr(students, 'SETTINGS', SETTINGS)
  monkeypatch.setattr(students, 'keep_programs', lambda flag: None)
  monkeypatch.setattr('sys.argv', ['students', *map(str, words)])
  students.main()
  made = json.loads(out.read_text())
  (told,) = [part for part in made['content'] if 'rows' in part]
  # Runs of the demo have no guidance, so that its saving is left out.
  assert [row[0] for row in told['rows']] == [
    'teacher, 2 steps',
    'teacher, 1 step',
    'unipc, 5 steps',
    'student, same',
  ]
  assert [float(row[1]) for row in told['rows'][:3]] == [4, 2, 10]
  assert all(float(row[2]) > 0 and len(row) == 8 for row in told['rows'])
  assert all(0 <= float(row[3].split()[0].strip('*')) <= 1 for row in told['rows'])
  assert str(tmp_path) not in json.dumps(made['content'][0])
  monkeypatch.setattr(page, 'RESULTS', tmp_path)
  assert page.read('students')['title'] == made['title']
  printed = capsys.readouterr().out
  assert any(line.startswith('| teacher, 2 steps | 4.0 | ') for line in printed.splitlines())


@pytest.mark.parametrize('name', ['demo_stage1', 'demo_unet_stage1'])
@pytest.mark.parametrize('solver', [None, 'unipc'])
def test_few_steps_keep_the_solver(name, solver):
  process = tiny.shipped(name).process
  if solver:
    process.solver = solver
  before = process.get('solver')
  students.space(process, 4)
  assert (process.get('solver'), process.steps) == (before, 4)


def test_each_run_has_its_student():
  args = asked('--runs', 'a', 'b', '--runs', 'c', 'd', '--clips', 'x', '--student', 's', '-', 'e')
  with pytest.raises(InputError, match="--student 's' is given 1 times, and --runs 2 times"):
    students.students_of(args)
  args.student.append(['s', 'f', '-'])
  assert students.students_of(args) == {'s': [('a', 'e'), ('f', 'd')]}


def test_what_differs_is_bold():
  rng = np.random.default_rng(0)

  def row(shift):
    columns = [rng.normal(shift, 0.1, (1, 20, 1)) for _ in range(4)]
    return students.Row('x', 1, 1, (*columns, rng.normal(size=(1, 20, 4))))

  first = row(0.0)
  assert all('**' not in cell for cell in students.cells(first, first, 50))
  found = students.cells(row(1.0), first, 50)[3:]
  assert all(cell.startswith('**1.') or cell.startswith('**0.9') for cell in found[:4])


def test_absolute_paths_are_not_written():
  args = asked('--runs', '/home/me/runs/one', 'two', '--clips', '/data/clips')
  assert isinstance(args, argparse.Namespace)
  assert students.command(args).splitlines()[:2] == [
    'python -m benchmarks.students --clips data/clips \\',
    '    --runs runs/one two \\',
  ]
