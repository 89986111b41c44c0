"""A student of stage 1 of the 4B transformer: four steps instead of 150 network passes.

    python -m ttm_jax.train --config=distill_stage1_dit --workdir=runs/student1 \\
        --config.data.path=DATASET --config.init_from=runs/stage1

Hardware: as stage 1, with three networks in memory. Score: not trained at this size yet;
demo_distill_stage1 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import stage1_dit
from ttm_jax.configs.distill import distill


def get_config() -> ConfigDict:
  return distill(stage1_dit.get_config())
