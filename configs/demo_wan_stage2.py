"""Stage 2 of the small Wan on procedural scenes (see `configs/demo_wan.py`).

    python -m ttm_jax.train --config=demo_wan_stage2 --workdir=runs/stage2 \\
        --config.data.path=DATASET

Hardware: one CPU core, 4 minutes (`ttm_jax.demo --preset wan` runs everything). Score: 26.6 dB
from ground-truth trajectories, 25.7 dB with stage 1 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_wan, stage2_wan


def get_config() -> ConfigDict:
  config = demo_wan.shrink(stage2_wan.get_config())
  config.train.steps = 800
  return config
