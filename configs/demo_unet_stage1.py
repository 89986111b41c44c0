"""Stage 1 of the small U-Net on procedural scenes (see `configs/demo_unet.py`).

    python -m ttm_jax.train --config=demo_unet_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: two CPU cores; `ttm_jax.demo --preset unet` takes 23 minutes in all. Score: trajectory
IoU .65, motion accuracy .67 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_unet, stage1_unet


def get_config() -> ConfigDict:
  return demo_unet.shrink(stage1_unet.get_config())
