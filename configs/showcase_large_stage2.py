"""Stage 2, motion-to-video, of the showcase at 128 x 128 pixels (see `configs/showcase.py`).

    python -m ttm_jax.train --config=showcase_large_stage2 --workdir=runs/stage2 \\
        --config.data.path=DATASET

Hardware: one GPU of 80 GB, estimated at three hours of an H200. Score: not trained to the end yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import showcase, stage2_dit


def get_config() -> ConfigDict:
  config = showcase.shrink_for_gpu(stage2_dit.get_config())
  config.train.steps = 50_000
  return config
