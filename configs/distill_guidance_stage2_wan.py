"""A student of stage 2 of Wan that takes the guidance scales as inputs.

    python -m ttm_jax.train --config=distill_guidance_stage2_wan --workdir=runs/student2 \\
        --config.data.path=DATASET --config.init_from=runs/stage2

Sizes are those of `stage2_wan`: --config=distill_guidance_stage2_wan:5b.

It samples in the steps of its teacher, with one network pass a step instead of three.

Hardware: as stage 2, with two networks in memory. Score: not trained at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import stage2_wan
from ttm_jax.configs.distill import distill_guidance


def get_config(form: str = '1.3b') -> ConfigDict:
  return distill_guidance(stage2_wan.get_config(form))
