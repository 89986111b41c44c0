"""Stage 2, motion-to-video, of the showcase at 64 x 64 pixels (see `configs/showcase.py`).

    python -m ttm_jax.train --config=showcase_stage2 --workdir=runs/stage2 \\
        --config.data.path=DATASET

Hardware: two CPU cores, half a day or more. Score: not trained to the end yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import showcase, stage2_dit


def get_config() -> ConfigDict:
  config = showcase.shrink(stage2_dit.get_config())
  config.train.steps = 12_000
  return config
