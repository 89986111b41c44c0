"""Plan every paper-scale configuration, and update the tables of docs/measurements.md.

    PYTHONPATH=.venv-aot python -m benchmarks.scale --out runs/scale

Each plan runs in its own process, one at a time. Plans with results in the folder are skipped, so
the command can be interrupted and resumed. The tables are updated after each plan.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttm_jax.atomic import write_text

# Reports by plan name; lines of a table by their first two cells.
Found = dict[str, list[dict[str, Any]]]
Rows = dict[tuple[str, str], list[str]]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'measurements.md'

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
  made = argparse.ArgumentParser('python -m benchmarks.scale', description=__doc__)
  made.add_argument('--out', type=Path, default=Path('runs/scale'), help='folder for the results')
  made.add_argument('--configs', nargs='*', default=CONFIGS, choices=CONFIGS)
  made.add_argument('--machines', nargs='*', default=MACHINES)
  made.add_argument('--weak', action=argparse.BooleanOptionalAction, default=True)
  made.add_argument('--launched', action=argparse.BooleanOptionalAction, default=True)
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
  """Write all results into the page, between its marks. Rows without results stay unchanged."""
  found = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob('*.json'))}
  put(PAGE, 'plans', lambda rows: plans(found, rows))
  put(PAGE, 'weak', lambda rows: weak(found, rows))
  put(PAGE, 'launched', lambda rows: launched(found, rows))


def put(page: Path, mark: str, table: Callable[[Rows], list[str]]) -> None:
  """Replace the table between two marks of a page; `table` receives the present rows."""
  begin, end = f'<!-- {mark} -->', f'<!-- /{mark} -->'
  before, _, rest = page.read_text().partition(begin)
  old, _, after = rest.partition(end)
  text = '\n'.join(table(standing(old)))
  write_text(page, f'{before}{begin}\n{text}\n{end}{after}')


def standing(table: str) -> Rows:
  """Return the rows of a table by their first two cells.

  Rows with empty cells belong to the row before.
  """
  rows: Rows = {}
  key = ('', '')
  for line in table.strip().splitlines():
    first, second = (cell.strip() for cell in line.split('|')[1:3])
    key = (first, second) if first else key
    rows.setdefault(key, []).append(line)
  return rows


def plans(found: Found, old: Rows) -> list[str]:
  """Return the Markdown table of all plans."""
  lines = [
    '| config | chips | setting | state GB | activations GB | total / capacity | PFLOP per step |'
    ' step, lower bound | bound | samples/s, upper bound | days | compiled in |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for machine in MACHINES:
    for config in CONFIGS:
      reports = _reports(found, config, machine)
      new = [_line(*('', '') if i else (config, machine), r) for i, r in enumerate(reports)]
      lines += new or old.get((config, machine), [])
  return lines


def launched(found: Found, old: Rows) -> list[str]:
  """Return the Markdown table of the plans of the launch commands."""
  lines = [
    '| config | machine | setting | GB per device | step, lower bound |'
    ' samples/s, upper bound | days |',
    '|---|---|---|---|---|---|---|',
  ]
  for sold, machine in SOLD.items():
    for config in LAUNCHED:
      new = [
        f'| {config} | {sold} | {r["setting"]} |'
        f' {r["memory"]["total"] / 1e9:.1f} of {r["capacity"] / 1e9:.1f} |'
        f' {r["step_seconds"]:.2f} s | {r["samples_per_second"]:.0f} | {r["days"]:.1f} |'
        for r in _reports(found, config, machine)[:1]
      ]
      lines += new or old.get((config, sold), [])
  return lines


def _reports(found: Found, what: str, machine: str) -> list[dict[str, Any]]:
  return found.get(f'{what}-{machine.replace(":", "_")}', [])


def _line(config: str, machine: str, r: dict[str, Any]) -> str:
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
  return (
    ' | '.join(
      [
        f'| {config}',
        machine,
        r['setting'],
        f'{state / 1e9:.1f}',
        f'{memory["temporaries"] / 1e9:.1f}',
        total if r['fits'] else f'**{total}: no**',
        *(figures if r['fits'] else ['' for _ in figures]),
      ]
    )
    + ' |'
  )


def weak(found: Found, old: Rows) -> list[str]:
  """Return the Markdown table of weak scaling."""
  lines = [
    '| chips | setting | batch | TFLOP per chip | GB per chip |'
    ' GB sent within the slice | between slices | step, lower bound |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for machine, copies in WEAK.items():
    new = []
    for r in _reports(found, 'weak', machine)[:1]:
      sent = r['costs']['collectives'].values()
      near, far = (sum(x[kind] for x in sent) / 1e9 for kind in ('near', 'far'))
      new.append(
        f'| {r["devices"]} | {r["setting"]} | {r["batch"]} | {r["costs"]["flops"] / 1e12:.1f} |'
        f' {r["memory"]["total"] / 1e9:.2f} | {near:.1f} | {far:.1f} | {r["step_seconds"]:.2f} s |'
      )
    lines += new or [row for key, rows in old.items() if key[0] == str(16 * copies) for row in rows]
  return lines


if __name__ == '__main__':
  main()
