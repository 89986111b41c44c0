"""Stage 1 of the small Wan on procedural scenes (see `configs/demo_wan.py`).

    python -m ttm_jax.train --config=demo_wan_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: one CPU core, 5 minutes (`ttm_jax.demo --preset wan` runs everything). Score: trajectory
IoU .73, motion accuracy (direction) 1.00 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo, demo_wan, stage1_wan


def get_config() -> ConfigDict:
  config = demo_wan.shrink(stage1_wan.get_config())
  config.process.mean = demo.MOTION_MEAN
  return config
