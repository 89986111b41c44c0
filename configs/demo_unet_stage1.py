"""Stage 1 of the small U-Net on procedural scenes (see `configs/demo_unet.py`).

    python -m ttm_jax.train --config=demo_unet_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: one CPU core, 13 minutes (`ttm_jax.demo --preset unet` runs everything). Score: trajectory
IoU .70, motion accuracy (direction) .96 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_unet, stage1_unet


def get_config() -> ConfigDict:
  return demo_unet.shrink(stage1_unet.get_config())
