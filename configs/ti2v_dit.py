"""The TI2V baseline of the 4B transformer (paper, section 4.2): image, caption -> video.

    python -m ttm_jax.train --config=ti2v_dit --workdir=runs/ti2v --config.data.path=DATASET \\
        --config.init_from=runs/pretrain

The masked layers stay, as plain attention, so that it has as many parameters as stage 2.

Hardware: 16 chips of v5e; a plan says at least 1.0 days (docs/measurements.md). Score: not trained
at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.dit import dit


def get_config() -> ConfigDict:
  return dit('image_to_video', masked_blocks=10)
