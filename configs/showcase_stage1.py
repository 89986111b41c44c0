"""Stage 1, image-to-motion, of the showcase at 64 x 64 pixels (see `configs/showcase.py`).

    python -m ttm_jax.train --config=showcase_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: two CPU cores, half a day or more. Score: not trained to the end yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import showcase, stage1_dit


def get_config() -> ConfigDict:
  return showcase.shrink(stage1_dit.get_config())
