"""A student of stage 2 of Wan: four steps instead of 150 network passes.

    python -m ttm_jax.train --config=distill_stage2_wan --workdir=runs/student2 \\
        --config.data.path=DATASET --config.init_from=runs/stage2

Sizes are those of `stage2_wan`: --config=distill_stage2_wan:5b.

Hardware: as stage 2, with three networks in memory. Score: not trained at this size yet;
demo_distill_stage2 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import stage2_wan
from ttm_jax.configs.distill import distill


def get_config(form: str = '1.3b') -> ConfigDict:
  return distill(stage2_wan.get_config(form))
