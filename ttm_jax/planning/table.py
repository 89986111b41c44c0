"""Format plan reports as terminal tables."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ttm_jax.planning.report import Report
from ttm_jax.planning.roofline import BOUNDS, times

KINDS = {
  'parameters': 'parameters',
  'ema': 'moving average',
  'optimizer': 'optimiser',
  'batch': 'batch',
  'temporaries': 'activations and temporaries',
}


def whole(report: Report) -> Group:
  """Return all tables of a report."""
  parts: list[Table | Text] = [
    Text(report.topology.title, style='bold'),
    Text(f'{setting(report)}; batch {report.batch}'),
    _memory(report),
    _work(report),
    _collectives(report),
    _times(report),
  ]
  if report.sampler is not None:
    seconds = times(report.sampler, report.topology.chip).least
    parts.append(
      Text(
        f'sampler: {report.samples} clips in {duration(seconds)} at least,'
        f' {size(report.sampler_memory)} a device'
      )
    )
  if report.left_out:
    parts.append(Text(report.left_out, style='yellow'))
  return Group(*parts)


def setting(report: Report) -> str:
  """Describe a setting, such as 'data 2 x fsdp 16, remat full'; axes of size 1 are left out."""
  mesh = ' x '.join(f'{axis} {count}' for axis, count in report.mesh.items() if count > 1)
  more = f', accumulate {report.accumulate}' if report.accumulate > 1 else ''
  more += ', optimiser on the host' if report.offload else ''
  return f'{mesh or "one device"}, remat {report.remat}{more}'


def _plain(title: str, *columns: str) -> Table:
  table = Table(title=title, title_justify='left', show_edge=False, pad_edge=False)
  for i, column in enumerate(columns):
    table.add_column(column, justify='right' if i else 'left')
  return table


def _memory(report: Report) -> Table:
  capacity = report.topology.chip.memory
  table = _plain('Memory of a device', 'kind', 'GB', 'of capacity')

  def row(name: str, value: float, style: str = '') -> None:
    table.add_row(name, f'{value / 1e9:.2f}', f'{value / capacity:.0%}', style=style)

  for kind, name in KINDS.items():
    row(name, getattr(report.memory, kind))
  row('all', report.memory.total, 'bold' if report.fits else 'bold red')
  row('capacity', capacity)
  if report.memory.host:
    table.add_row('in the host, a device', f'{report.memory.host / 1e9:.2f}', '')
  return table


def _work(report: Report) -> Table:
  table = _plain('Operations of a step', '', 'a device', 'all devices')
  for name, value in (('model', report.model_flops), ('hardware', report.costs.flops)):
    table.add_row(
      name, f'{value / 1e12:.1f} TFLOP', f'{value * report.topology.devices / 1e15:.2f} PFLOP'
    )
  return table


def _collectives(report: Report) -> Table:
  table = _plain('Exchange of a device in a step', 'kind', 'times', 'sent near', 'sent far')
  for kind, x in sorted(report.costs.collectives.items()):
    table.add_row(kind, f'{x.count:.0f}', size(x.near), size(x.far))
  return table


def _times(report: Report) -> Table:
  found = report.times
  table = _plain('Roofline', '', 'of a step', '')
  for name, title in BOUNDS.items():
    value = getattr(found, name)
    bound = 'the bound' if name == found.bound else ''
    table.add_row(title, duration(value), bound, style='bold' if bound else '')
  table.add_row('step, all at once', duration(found.least), f'MFU {report.best_mfu:.0%} at most')
  table.add_row('step, one after the other', duration(found.most), '')
  rate = f'{report.samples_per_second:.2f} samples/s'
  if report.tokens:
    rate += f', {report.samples_per_second * report.tokens:,.0f} tokens/s'
  table.add_row('', rate, f'{report.days:.1f} days for {report.steps:,} steps')
  return table


def comparison(reports: Sequence[Report]) -> Table:
  """Return a table that compares reports, one row each."""
  table = _plain(
    reports[0].topology.title,
    'setting', 'GB', 'fits', 'PFLOP', 'sent GB', 'step', 'bound', 'samples/s', 'days',
  )  # fmt: skip
  for r in reports:
    sent = (r.costs.near + r.costs.far) / 1e9
    table.add_row(
      setting(r),
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
