"""Stage 2, motion-to-video, of the U-Net at demo size (see `configs/demo_unet.py`).

python -m ttm_jax.train --config=configs/demo_unet_stage2.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import demo_unet, stage2_unet


def get_config() -> ConfigDict:
  config = demo_unet.shrink(stage2_unet.get_config())
  config.train.steps = 1_200
  return config
