"""Stage 1, image-to-motion, of the showcase at 128 x 128 pixels (see `configs/showcase.py`).

    python -m ttm_jax.train --config=showcase_large_stage1 --workdir=runs/stage1 \\
        --config.data.path=DATASET

Hardware: one GPU of 80 GB, estimated at three hours of an H200. Score: not trained to the end yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import showcase, stage1_dit


def get_config() -> ConfigDict:
  return showcase.shrink_for_gpu(stage1_dit.get_config())
