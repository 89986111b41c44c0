"""Stage 2 of the U-Net (paper, section 3.3): image, trajectory, prompts -> video; K = 6.

    python -m ttm_jax.train --config=stage2_unet --workdir=runs/stage2 --config.data.path=DATASET \\
        --config.init_from=runs/adapted

All six transformers of the encoder have the masked layers.

Hardware: 16 chips of v5e, 32 of v5p or 8 H100s; plans say at least 0.7, 0.2 and 0.3 days
(docs/measurements.md). Score: not trained at this size yet; demo_unet_stage2 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.unet import unet


def get_config() -> ConfigDict:
  return unet('motion_to_video', masked_blocks=6)
