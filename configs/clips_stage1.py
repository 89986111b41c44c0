"""Overfit stage 1, image-to-motion, on a few real clips (see `configs/clips.py`).

    python -m ttm_jax.train --config=clips_stage1 --workdir=runs/clips_stage1 \\
        --config.data.path=DATASET

Hardware: one CPU core, about ten minutes. Score: trajectory IoU .97 on the nine training clips
(docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import clips, stage1_dit


def get_config() -> ConfigDict:
  return clips.shrink(stage1_dit.get_config())
