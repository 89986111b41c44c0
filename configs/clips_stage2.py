"""Overfit stage 2, motion-to-video, on a few real clips (see `configs/clips.py`).

    python -m ttm_jax.train --config=clips_stage2 --workdir=runs/clips_stage2 \\
        --config.data.path=DATASET

Hardware: one CPU core, about ten minutes. Score: 32.1 dB on the nine training clips
(docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import clips, stage2_dit


def get_config() -> ConfigDict:
  return clips.shrink(stage2_dit.get_config())
