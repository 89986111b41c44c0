"""Stage 2, motion-to-video (paper, section 3.3): picture, trajectory, prompts -> video; K = 10.

    python -m ttm_jax.train --config=configs/stage2_dit.py --config.data.path=DATASET \\
        --config.init_from=PRETRAINED"""

from ml_collections import ConfigDict

from configs.dit import dit


def get_config() -> ConfigDict:
  return dit('motion_to_video', visual=2, masked_blocks=10)
