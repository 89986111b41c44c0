"""Stage 2 of the small U-Net on procedural scenes (see `configs/demo_unet.py`).

    python -m ttm_jax.train --config=demo_unet_stage2 --workdir=runs/stage2 \\
        --config.data.path=DATASET

Hardware: one CPU core, 13 minutes (`ttm_jax.demo --preset unet` runs everything). Score: 26.7 dB
from ground-truth trajectories, 25.6 dB with stage 1 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_unet, stage2_unet


def get_config() -> ConfigDict:
  config = demo_unet.shrink(stage2_unet.get_config())
  config.train.steps = 800
  return config
