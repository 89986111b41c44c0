"""The TI2V baseline of the small U-Net on procedural scenes (see `configs/demo_unet.py`).

    python -m ttm_jax.train --config=demo_unet_ti2v --workdir=runs/ti2v --config.data.path=DATASET

Hardware: one CPU core, 13 minutes (planned, as stage 2). Score: not trained alone; as a row of
`configs/ablate_scenes_unet.py` in docs/evidence.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_unet, ti2v_unet


def get_config() -> ConfigDict:
  config = demo_unet.shrink(ti2v_unet.get_config())
  config.train.steps = 800
  return config
