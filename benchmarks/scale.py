"""Plan every paper-scale configuration, and update the tables in benchmarks/results/.

    PYTHONPATH=.venv-aot python -m benchmarks.scale --out runs/scale

Each plan runs in its own process, one at a time. Plans with results in the folder are skipped, so
the command can be interrupted and resumed. The tables are updated after each plan;
`python -m benchmarks.page` then writes docs/measurements.md.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttm_jax.atomic import write_text

# Reports by plan name; rows of a table by their first two cells.
Found = dict[str, list[dict[str, Any]]]
Row = list[Any]
Rows = dict[tuple[str, str], list[Row]]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'

CONFIGS = (
  'pretrain_dit',
  'stage1_dit',
  'stage2_dit',
  'ti2v_dit',
  'adapt_unet',
  'stage1_unet',
  'stage2_unet',
  'ti2v_unet',
  'codec_tae',
)
MACHINES = ('v5e:4x4', 'v5p:2x2x4', 'v6e:4x4')

# Configurations of the launch commands, and their machines: cloud product name to topology name.
LAUNCHED = ('stage1_dit', 'stage2_dit', 'stage1_unet', 'stage2_unet')
SOLD = {'v5litepod-16': 'v5e:4x4', 'v5p-64': 'v5p:2x4x4', '8 H100s': 'h100x8'}

# Weak scaling with two samples per chip and 16 chips per parameter replica: topology to replicas.
WEAK = {'v5p:2x2x4': 1, 'v5p:4x4x4': 4, 'v5p:4x8x8': 16, 'v5p:8x8x16': 64}
WEAK_CONFIG = 'stage2_dit'


def main() -> None:
  """Make all plans that are missing."""
  made = argparse.ArgumentParser('python -m benchmarks.scale', description=__doc__)
  made.add_argument('--out', type=Path, default=Path('runs/scale'), help='folder for the results')
  add = made.add_argument
  add('--configs', nargs='*', default=CONFIGS, choices=CONFIGS, help='configurations to plan')
  add('--machines', nargs='*', default=MACHINES, help='topologies to plan for')
  boolean = argparse.BooleanOptionalAction
  add('--weak', action=boolean, default=True, help='plan weak scaling, too')
  add('--launched', action=boolean, default=True, help='plan the launch commands, too')
  args = made.parse_args()
  for machine in args.machines:
    for config in args.configs:
      plan(args.out, f'{config}-{machine}', config, machine)
  for machine in SOLD.values() if args.launched else ():
    for config in LAUNCHED:
      plan(args.out, f'{config}-{machine}', config, machine)
  for machine, copies in WEAK.items() if args.weak else ():
    options = [f'--config.mesh.data={copies}', '--config.mesh.fsdp=16', '--nosampler']
    options.append(f'--config.data.batch_size={32 * copies}')
    plan(args.out, f'weak-{machine}', WEAK_CONFIG, machine, options)


def plan(out: Path, name: str, config: str, machine: str, options: list[str] | None = None) -> None:
  """Run one plan if it has no results yet, then update the tables."""
  path = out / f'{name.replace(":", "_")}.json'
  if not path.exists():
    command = [
      sys.executable, '-m', 'ttm_jax.plan', f'--config={ROOT}/configs/{config}.py',
      f'--topology={machine}', f'--json={path}', *(options or []),
    ]  # fmt: skip
    print(' '.join(command), flush=True)
    begin = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, env=os.environ).returncode
    print(f'{name}: exit code {code} after {time.perf_counter() - begin:.0f} s', flush=True)
    if code not in (0, 1):
      return
  write(out)


def write(out: Path) -> None:
  """Write all plans into benchmarks/results/. Rows without results stay unchanged."""
  found = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob('*.json'))}
  put('plans', lambda rows: plans(found, rows))
  put('plans_weak', lambda rows: weak(found, rows))
  put('plans_launch', lambda rows: launched(found, rows))


def put(name: str, table: Callable[[Rows], list[Row]]) -> None:
  """Replace the rows of the table of a result; `table` receives the present ones."""
  path = RESULTS / f'{name}.json'
  result = json.loads(path.read_text())
  (old,) = (part for part in result['content'] if isinstance(part, dict) and 'rows' in part)
  rows = table(standing(old['rows']))
  if rows != old['rows']:
    old['rows'], result['date'] = rows, datetime.date.today().isoformat()
  write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + '\n')


def standing(table: list[Row]) -> Rows:
  """Return the rows of a table by their first two cells.

  Rows with empty cells belong to the row before.
  """
  rows: Rows = {}
  key = ('', '')
  for row in table:
    first, second = map(str, row[:2])
    key = (first, second) if first else key
    rows.setdefault(key, []).append(row)
  return rows


def plans(found: Found, old: Rows) -> list[Row]:
  """Return the rows of all plans."""
  rows: list[Row] = []
  for machine in MACHINES:
    for config in CONFIGS:
      reports = _reports(found, config, machine)
      new = [_row(*('', '') if i else (config, machine), r) for i, r in enumerate(reports)]
      rows += new or old.get((config, machine), [])
  return rows


def launched(found: Found, old: Rows) -> list[Row]:
  """Return the rows of the plans of the launch commands."""
  rows: list[Row] = []
  for sold, machine in SOLD.items():
    for config in LAUNCHED:
      new: list[Row] = [
        [
          config,
          sold,
          r['setting'],
          f'{r["memory"]["total"] / 1e9:.1f} of {r["capacity"] / 1e9:.1f}',
          f'{r["step_seconds"]:.2f} s',
          f'{r["samples_per_second"]:.0f}',
          f'{r["days"]:.1f}',
        ]
        for r in _reports(found, config, machine)[:1]
      ]
      rows += new or old.get((config, sold), [])
  return rows


def _reports(found: Found, what: str, machine: str) -> list[dict[str, Any]]:
  return found.get(f'{what}-{machine.replace(":", "_")}', [])


def _row(config: str, machine: str, r: dict[str, Any]) -> Row:
  memory = r['memory']
  state = sum(memory[kind] for kind in ('parameters', 'ema', 'optimizer'))
  total = f'{memory["total"] / 1e9:.1f} / {r["capacity"] / 1e9:.1f}'
  figures = [
    f'{r["costs"]["flops"] * r["devices"] / 1e15:.1f}',
    f'{r["step_seconds"]:.2f} s',
    r['bound'],
    f'{r["samples_per_second"]:.1f}',
    f'{r["days"]:.1f}',
    f'{r["seconds"]:.0f} s',
  ]
  return [
    config,
    machine,
    r['setting'],
    f'{state / 1e9:.1f}',
    f'{memory["temporaries"] / 1e9:.1f}',
    total if r['fits'] else f'**{total}: no**',
    *(figures if r['fits'] else ['' for _ in figures]),
  ]


def weak(found: Found, old: Rows) -> list[Row]:
  """Return the rows of weak scaling."""
  rows: list[Row] = []
  for machine, copies in WEAK.items():
    new: list[Row] = []
    for r in _reports(found, 'weak', machine)[:1]:
      sent = r['costs']['collectives'].values()
      near, far = (sum(x[kind] for x in sent) / 1e9 for kind in ('near', 'far'))
      new.append(
        [
          r['devices'],
          r['setting'],
          r['batch'],
          f'{r["costs"]["flops"] / 1e12:.1f}',
          f'{r["memory"]["total"] / 1e9:.2f}',
          f'{near:.1f}',
          f'{far:.1f}',
          f'{r["step_seconds"]:.2f} s',
        ]
      )
    rows += new or [row for key, kept in old.items() if key[0] == str(16 * copies) for row in kept]
  return rows


if __name__ == '__main__':
  main()
