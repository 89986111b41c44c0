"""Stage 2 of the 4B transformer (paper, section 3.3): image, trajectory, prompts -> video; K = 10.

    python -m ttm_jax.train --config=stage2_dit --workdir=runs/stage2 --config.data.path=DATASET \\
        --config.init_from=runs/pretrain

Hardware: 16 chips of v5e, 32 of v5p or 8 H100s; plans say at least 1.0, 0.3 and 0.4 days. One H200
takes 0.787 s per step at batch 3 (measured; docs/measurements.md). Score: not trained at this size
yet; demo_stage2 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.dit import dit


def get_config() -> ConfigDict:
  return dit('motion_to_video', masked_blocks=10)
