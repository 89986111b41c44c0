"""Text-to-video pre-training of the small Wan on procedural scenes (see `configs/demo_wan.py`).

    python -m ttm_jax.train --config=demo_wan_pretrain --workdir=runs/pretrain \\
        --config.data.path=DATASET

The stages start from it with --config.init_from=runs/pretrain, as they do from open weights.

Hardware: two CPU cores. Score: docs/measurements.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_wan
from ttm_jax.configs.wan import wan


def get_config() -> ConfigDict:
  config = demo_wan.shrink(wan('text_to_video'))
  config.train.steps = 1_200
  return config
