"""A student of stage 2 of the 4B transformer: four steps instead of 150 network passes.

    python -m ttm_jax.train --config=distill_stage2_dit --workdir=runs/student2 \\
        --config.data.path=DATASET --config.init_from=runs/stage2

Hardware: as stage 2, with three networks in memory. Score: not trained at this size yet;
demo_distill_stage2 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import stage2_dit
from ttm_jax.configs.distill import distill


def get_config() -> ConfigDict:
  return distill(stage2_dit.get_config())
