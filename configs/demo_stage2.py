"""Stage 2 of the small transformer on procedural scenes (see `configs/demo.py`).

    python -m ttm_jax.train --config=demo_stage2 --workdir=runs/stage2 --config.data.path=DATASET

Hardware: two CPU cores, about 3 minutes (`make demo` runs everything). Score: 28.4 dB from ground-
truth trajectories, 27.4 dB and motion accuracy .99 with stage 1 (docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo, stage2_dit


def get_config() -> ConfigDict:
  config = demo.recipe(stage2_dit.get_config(), steps=1_000)
  config.first_frame = 'change'  # So narrow a network has little room for whole frames.
  config.train.exchanged_texts = 0.5  # So that edited trajectories are obeyed.
  config.optimizer.muon_rate = 0.01  # Half that of stage 1.
  return config
