"""Stage 1, image-to-motion, on the embedded scenes at demo size (see `configs/demo.py`).

python -m ttm_jax.train --config=configs/demo_stage1.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import demo, stage1_dit


def get_config() -> ConfigDict:
  return demo.shrink(stage1_dit.get_config())
