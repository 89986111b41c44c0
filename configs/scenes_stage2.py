"""Stage 2, motion-to-video, on 64-pixel scenes (see `configs/scenes.py`).

    python -m ttm_jax.train --config=scenes_stage2 --workdir=runs/scenes_stage2 \\
        --config.data.path=DATASET

Hardware: one CPU core, 17 minutes. Score: 29.2 dB from ground-truth trajectories, 26.0 dB with
stage 1 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import scenes, stage2_dit


def get_config() -> ConfigDict:
  config = scenes.shrink(stage2_dit.get_config(), steps=1_800)
  config.first_frame = 'change'
  config.optimizer.muon_rate = 0.01  # Half that of stage 1.
  return config
