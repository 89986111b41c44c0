"""Stage 2, motion-to-video, on the embedded scenes at demo size (see `configs/demo.py`).

python -m ttm_jax.train --config=configs/demo_stage2.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import demo, stage2_dit


def get_config() -> ConfigDict:
  config = demo.shrink(stage2_dit.get_config())
  config.train.steps = 2_400
  return config
