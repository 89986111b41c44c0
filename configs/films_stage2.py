"""Stage 2, motion-to-video, on filmed videos (see `configs/films.py`).

    python -m ttm_jax.train --config=films_stage2 --workdir=runs/films_stage2 \\
        --config.data.path=DATASET

Hardware: one CPU core, minutes. Score: docs/measurements.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import films, stage2_dit


def get_config() -> ConfigDict:
  return films.shrink(stage2_dit.get_config())
