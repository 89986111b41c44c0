"""Stage 1 of the small transformer on procedural scenes (see `configs/demo.py`).

    python -m ttm_jax.train --config=demo_stage1 --workdir=runs/stage1 --config.data.path=DATASET

Hardware: two CPU cores, about 5 minutes (`make demo` runs everything). Score: trajectory IoU .78,
motion accuracy (direction) 1.00 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo, stage1_dit


def get_config() -> ConfigDict:
  config = demo.recipe(stage1_dit.get_config(), steps=2_400)
  config.process.mean = demo.MOTION_MEAN
  return config
