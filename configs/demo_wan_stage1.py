"""Stage 1 of the small Wan on procedural scenes (see `configs/demo_wan.py`).

    python -m ttm_jax.train --config=demo_wan_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: two CPU cores (`ttm_jax.demo --preset wan` runs everything). Score: trajectory
IoU .54, motion accuracy .60 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_wan, stage1_wan


def get_config() -> ConfigDict:
  return demo_wan.shrink(stage1_wan.get_config())
