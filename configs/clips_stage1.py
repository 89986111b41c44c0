"""Stage 1, image-to-motion, on a handful of filmed clips (see `configs/clips.py`).

python -m ttm_jax.train --config=configs/clips_stage1.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import clips, stage1_dit


def get_config() -> ConfigDict:
  return clips.shrink(stage1_dit.get_config())
