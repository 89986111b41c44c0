"""The TI2V baseline of the small transformer on procedural scenes (see `configs/demo.py`).

    python -m ttm_jax.train --config=demo_ti2v --workdir=runs/ti2v --config.data.path=DATASET

Hardware: two CPU cores, about 3 minutes. Score: see docs/evidence.md, beside stage 2.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo, ti2v_dit


def get_config() -> ConfigDict:
  return demo.recipe(ti2v_dit.get_config(), steps=1_000)
