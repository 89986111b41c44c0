"""Format plan reports as terminal tables."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ttm_jax.planning.report import Report, named_mesh
from ttm_jax.planning.roofline import BOUNDS
from ttm_jax.planning.sampler_report import SamplerReport

KINDS = {
  'parameters': 'parameters',
  'ema': 'EMA',
  'optimizer': 'optimizer state',
  'batch': 'batch',
  'temporaries': 'activations and temporaries',
}


def whole(report: Report) -> Group:
  """Return all tables of a report."""
  parts: list[Table | Text] = [
    Text(report.topology.title, style='bold'),
    Text(f'{report.setting}; batch {report.batch}'),
    _memory(report),
    _flops(report),
    _collectives(report),
    _times(report),
  ]
  if (sampler := report.sampler) is not None:
    parts.append(
      Text(
        f'sampler: at least {duration(sampler.times.least)} for {sampler.samples} clips,'
        f' {size(sampler.total)} per device'
      )
    )
  if report.left_out:
    parts.append(Text(report.left_out, style='yellow'))
  return Group(*parts)


def sampler(report: SamplerReport) -> Group:
  """Return all tables of the plan of a sampler."""
  capacity = report.topology.chip.memory
  held = _plain('Peak memory per device', 'kind', 'GB', 'of capacity')
  rows = {'parameters': report.parameters}
  if report.temporaries:
    rows['conditions, activations and temporaries'] = report.temporaries
  for name, value in {**rows, 'total': report.total, 'capacity': capacity}.items():
    style = ('bold' if report.fits else 'bold red') if name == 'total' else ''
    held.add_row(name, f'{value / 1e9:.2f}', f'{value / capacity:.0%}', style=style)
  spent = _plain(f'Roofline of {report.steps} steps', '', 'time')
  for name, title in BOUNDS.items():
    if seconds := getattr(report.times, name):
      spent.add_row(title, duration(seconds))
  spent.add_row('sampling, full overlap', duration(report.times.least))
  spent.add_row('sampling, no overlap', duration(report.times.most))
  clips = '1 clip' if report.samples == 1 else f'{report.samples} clips at once'
  parts: list[Table | Text] = [
    Text(report.topology.title, style='bold'),
    Text(f'{named_mesh(report.mesh)}; {clips}'),
    held,
    spent,
  ]
  if report.left_out:
    parts.append(Text(report.left_out, style='yellow'))
  return Group(*parts)


def _plain(title: str, *columns: str) -> Table:
  table = Table(title=title, title_justify='left', show_edge=False, pad_edge=False)
  for i, column in enumerate(columns):
    table.add_column(column, justify='right' if i else 'left')
  return table


def _memory(report: Report) -> Table:
  capacity = report.topology.chip.memory
  table = _plain('Peak memory per device', 'kind', 'GB', 'of capacity')

  def row(name: str, value: float, style: str = '') -> None:
    table.add_row(name, f'{value / 1e9:.2f}', f'{value / capacity:.0%}', style=style)

  for kind, name in KINDS.items():
    row(name, getattr(report.memory, kind))
  row('total', report.memory.total, 'bold' if report.fits else 'bold red')
  row('capacity', capacity)
  if report.memory.host:
    table.add_row('host memory per device', f'{report.memory.host / 1e9:.2f}', '')
  return table


def _flops(report: Report) -> Table:
  table = _plain('FLOPs per step', '', 'per device', 'all devices')
  for name, value in (('model', report.model_flops), ('hardware', report.costs.flops)):
    table.add_row(
      name, f'{value / 1e12:.1f} TFLOP', f'{value * report.topology.devices / 1e15:.2f} PFLOP'
    )
  return table


def _collectives(report: Report) -> Table:
  table = _plain(
    'Bytes sent per device and step', 'collective', 'count', 'within slice', 'between slices'
  )
  for kind, x in sorted(report.costs.collectives.items()):
    table.add_row(kind, f'{x.count:.0f}', size(x.near), size(x.far))
  return table


def _times(report: Report) -> Table:
  found = report.times
  table = _plain('Roofline', '', 'per step', '')
  for name, title in BOUNDS.items():
    value = getattr(found, name)
    bound = 'bound' if name == found.bound else ''
    table.add_row(title, duration(value), bound, style='bold' if bound else '')
  table.add_row('step, full overlap', duration(found.least), f'MFU at most {report.best_mfu:.0%}')
  table.add_row('step, no overlap', duration(found.most), '')
  rate, days = report.samples_per_second, f'{report.days:.1f} days for {report.steps:,} steps'
  table.add_row('samples/s at most', f'{rate:.2f}', days)
  if report.tokens:
    table.add_row('tokens/s at most', f'{rate * report.tokens:,.0f}', '')
  return table


def comparison(reports: Sequence[Report]) -> Table:
  """Return a table that compares reports, one row each."""
  table = _plain(
    reports[0].topology.title,
    'setting', 'GB', 'fits', 'PFLOP', 'GB sent', 'step', 'bound', 'samples/s', 'days',
  )  # fmt: skip
  for r in reports:
    sent = (r.costs.near + r.costs.far) / 1e9
    table.add_row(
      r.setting,
      f'{r.memory.total / 1e9:.1f}',
      'yes' if r.fits else 'no',
      f'{r.costs.flops * r.topology.devices / 1e15:.2f}',
      f'{sent:.1f}',
      duration(r.times.least),
      BOUNDS[r.times.bound],
      f'{r.samples_per_second:.2f}',
      f'{r.days:.1f}',
      style='' if r.fits else 'red',
    )
  return table


def size(value: float) -> str:
  """Format a number of bytes with a decimal unit."""
  for unit in ('B', 'kB', 'MB'):
    if value < 1000:
      return f'{value:.0f} {unit}'
    value /= 1000
  return f'{value:.2f} GB'


def duration(seconds: float) -> str:
  """Format seconds as ms or s."""
  return f'{seconds * 1e3:.1f} ms' if seconds < 1 else f'{seconds:.2f} s'
