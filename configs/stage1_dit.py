"""Stage 1 of the 4B transformer (paper, section 3.2): image, masks, motion prompt -> trajectory.

    python -m ttm_jax.train --config=stage1_dit --workdir=runs/stage1 --config.data.path=DATASET \\
        --config.init_from=runs/pretrain

Hardware: 16 chips of v5e, 32 of v5p or 8 H100s; plans say at least 0.9, 0.2 and 0.4 days
(docs/measurements.md). Score: not trained at this size yet; demo_stage1 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.dit import dit


def get_config() -> ConfigDict:
  return dit('image_to_motion')
