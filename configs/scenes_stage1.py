"""Stage 1, image-to-motion, on scenes of 64 pixels (see `configs/scenes.py`).

python -m ttm_jax.train --config=configs/scenes_stage1.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import scenes, stage1_dit


def get_config() -> ConfigDict:
  return scenes.shrink(stage1_dit.get_config())
