"""Estimate the memory and speed of a run on hardware that you do not have yet.

    python -m ttm_jax.plan --config=configs/stage2_dit.py --topology=v5p:4x4x4
    python -m ttm_jax.plan --config=configs/stage2_dit.py --topology=v5e:4x4 --sweep
    python -m ttm_jax.plan --config=configs/stage1_unet.py --topology=h100x32 --json=plan.json

For TPUs, the train step and the sampler are compiled ahead of time for the target hardware, on any
host. For GPUs, memory and cost are estimated without compiling. Flags can set every value of the
configuration; no dataset is needed. If the run does not fit in memory, the command searches for the
nearest setting that does, and exits with code 1. --nostep plans the sampler alone, to see where a
trained network generates.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ttm_jax import outputs
from ttm_jax.errors import front_door
from ttm_jax.planning import hardware
from ttm_jax.settings import parse_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_TOPOLOGY = flags.DEFINE_string('topology', None, hardware.known_topologies())
_SLICES = flags.DEFINE_integer('num_slices', 1, 'number of TPU slices')
_CLIP = flags.DEFINE_string('clip', '', "FRAMESxHEIGHTxWIDTH in pixels; default the paper's")
_SWEEP = flags.DEFINE_bool('sweep', False, 'compare meshes and remat policies')
_STEP = flags.DEFINE_bool('step', True, 'plan the train step')
_SAMPLER = flags.DEFINE_bool(
  'sampler', True, 'plan the sampler: sample.count clips at once, at most data.batch_size'
)
_JSON = flags.DEFINE_string('json', '', 'path of the JSON report')
flags.mark_flags_as_required(['config', 'topology'])


def main(argv: list[str]) -> None:
  """Print the plan, and exit with code 0 if the run fits in memory, otherwise 1.

  Raises:
    InputError: If the configuration, the topology or --json is invalid.
  """
  del argv
  if _JSON.value:
    config_file = config_flags.get_config_filename(flags.FLAGS['config'])
    outputs.check('--json', [_JSON.value], reads={'--config': config_file})
  from ttm_jax.planning.session import plan

  fits = plan(
    _CONFIG.value,
    hardware.topology(_TOPOLOGY.value or '', _SLICES.value),
    clip=_CLIP.value,
    sweep=_SWEEP.value,
    step=_STEP.value,
    sampler=_SAMPLER.value,
    json_file=_JSON.value,
  )
  sys.exit(0 if fits else 1)


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
  cli()
