"""Stage 1 of the U-Net, image-to-motion (paper, section 3.2): picture, masks, prompt -> masks.

    python -m ttm_jax.train --config=configs/stage1_unet.py --config.data.path=DATASET \\
        --config.init_from=ADAPTED"""

from ml_collections import ConfigDict

from configs.unet import unet


def get_config() -> ConfigDict:
  return unet('image_to_motion', visual=2)
