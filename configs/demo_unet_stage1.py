"""Stage 1, image-to-motion, of the U-Net at demo size (see `configs/demo_unet.py`).

python -m ttm_jax.train --config=configs/demo_unet_stage1.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import demo_unet, stage1_unet


def get_config() -> ConfigDict:
  return demo_unet.shrink(stage1_unet.get_config())
