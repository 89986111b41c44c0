"""Stage 1 of the U-Net (paper, section 3.2): image, masks, motion prompt -> trajectory.

    python -m ttm_jax.train --config=stage1_unet --workdir=runs/stage1 --config.data.path=DATASET \\
        --config.init_from=runs/adapted

Hardware: 16 chips of v5e, 32 of v5p or 8 H100s; plans say at least 0.4, 0.1 and 0.2 days
(docs/measurements.md). Score: not trained at this size yet; demo_unet_stage1 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.unet import unet


def get_config() -> ConfigDict:
  return unet('image_to_motion')
