"""The single-stage baseline TI2V of the U-Net (paper, section 4.2): picture, caption -> video.

    python -m ttm_jax.train --config=configs/ti2v_unet.py --config.data.path=DATASET \\
        --config.init_from=ADAPTED

The extra layers stay, unmasked, so that it has as many parameters as stage 2."""

from ml_collections import ConfigDict

from configs.unet import unet


def get_config() -> ConfigDict:
  return unet('image_to_video', visual=1, masked_blocks=6)
