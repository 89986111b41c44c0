"""Stage 2, motion-to-video, on a handful of filmed clips (see `configs/clips.py`).

python -m ttm_jax.train --config=configs/clips_stage2.py --config.data.path=DATASET
"""

from ml_collections import ConfigDict

from configs import clips, stage2_dit


def get_config() -> ConfigDict:
  return clips.shrink(stage2_dit.get_config())
