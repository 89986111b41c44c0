"""Stage 1, image-to-motion, on 64-pixel scenes (see `configs/scenes.py`).

    python -m ttm_jax.train --config=scenes_stage1 --workdir=runs/scenes_stage1 \\
        --config.data.path=DATASET

Hardware: one CPU core, 18 minutes. Score: trajectory IoU .71, motion accuracy (direction) 1.00
(docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo, scenes, stage1_dit


def get_config() -> ConfigDict:
  config = scenes.shrink(stage1_dit.get_config(), steps=2_400)
  config.process.mean = demo.MOTION_MEAN
  return config
