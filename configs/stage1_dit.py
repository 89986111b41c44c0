"""Stage 1, image-to-motion (paper, section 3.2): picture, its masks, motion prompt -> trajectory.

    python -m ttm_jax.train --config=configs/stage1_dit.py --config.data.path=DATASET \\
        --config.init_from=PRETRAINED"""

from ml_collections import ConfigDict

from configs.dit import dit


def get_config() -> ConfigDict:
  return dit('image_to_motion', visual=2)
