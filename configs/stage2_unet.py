"""Stage 2 of the U-Net, motion-to-video (paper, section 3.3): picture, masks, prompts -> video.

K = 6: all transformers of the encoder carry the extra layers.

    python -m ttm_jax.train --config=configs/stage2_unet.py --config.data.path=DATASET \\
        --config.init_from=ADAPTED"""

from ml_collections import ConfigDict

from configs.unet import unet


def get_config() -> ConfigDict:
  return unet('motion_to_video', visual=2, masked_blocks=6)
