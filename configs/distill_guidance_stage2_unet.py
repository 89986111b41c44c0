"""A student of stage 2 of the U-Net that takes the guidance scales as inputs.

    python -m ttm_jax.train --config=distill_guidance_stage2_unet --workdir=runs/student2 \\
        --config.data.path=DATASET --config.init_from=runs/stage2

It samples in the steps of its teacher, with one network pass a step instead of three.

Hardware: as stage 2, with two networks in memory. Score: not trained at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import stage2_unet
from ttm_jax.configs.distill import distill_guidance


def get_config() -> ConfigDict:
  return distill_guidance(stage2_unet.get_config())
