"""The single-stage baseline TI2V of the U-Net (paper, section 4.2): image, caption -> video.

    python -m ttm_jax.train --config=ti2v_unet --workdir=runs/ti2v --config.data.path=DATASET \\
        --config.init_from=runs/adapted

The masked layers stay, as plain attention, so that it has as many parameters as stage 2.

Hardware: 16 chips of v5e; a plan says at least 0.7 days (docs/measurements.md). Score: not trained
at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.unet import unet


def get_config() -> ConfigDict:
  return unet('image_to_video', masked_blocks=6)
