"""Names of the layouts that `data_tools.prepare` reads (see `data_tools.layouts`)."""

from data_tools.sources.magicdata import FOLDERS
from data_tools.sources.movebench import MODES

BENCHMARKS = (
  'list',
  *(f'movebench-{mode}' for mode in MODES),
  *(f'magicdata-{what}' for what in FOLDERS),
)
LAYOUTS = ('auto', 'captioned', 'vos', 'sav', *BENCHMARKS)
