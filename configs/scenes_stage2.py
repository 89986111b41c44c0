"""Stage 2, motion-to-video, on scenes of 64 pixels (see `configs/scenes.py`).

python -m ttm_jax.train --config=configs/scenes_stage2.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import scenes, stage2_dit


def get_config() -> ConfigDict:
  config = scenes.shrink(stage2_dit.get_config())
  config.train.steps = 2_600
  return config
