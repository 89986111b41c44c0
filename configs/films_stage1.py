"""Stage 1, image-to-motion, on filmed videos (see `configs/films.py`).

    python -m ttm_jax.train --config=films_stage1 --workdir=runs/films_stage1 \\
        --config.data.path=DATASET

Hardware: one CPU core, minutes. Score: docs/measurements.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import films, stage1_dit


def get_config() -> ConfigDict:
  return films.shrink(stage1_dit.get_config())
