"""Pre-train the 4B transformer: caption -> video.

    python -m ttm_jax.train --config=pretrain_dit --workdir=runs/pretrain --config.data.path=DATASET

The stages start from its weights (--config.init_from=runs/pretrain). The paper starts from Movie
Gen's weights, which are not public.

Hardware: 16 chips of v5e; a plan says at least 0.9 days (docs/measurements.md). On 8 H100s see
stage1_dit. Score: not trained at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.dit import dit


def get_config() -> ConfigDict:
  return dit('text_to_video')
