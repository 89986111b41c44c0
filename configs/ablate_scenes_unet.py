"""The rows of `configs/ablate_scenes.py` for the small U-Net.

    python -m ttm_jax.ablate --config=ablate_scenes_unet --workdir=runs/ablation_unet

The masked layers are in the one transformer of the encoder (`configs/demo_unet.py`).

Hardware: two CPU cores, an hour and a half for three seeds. Score: right attributes .15 (TI2V), .33
(none), .65 (cross), .37 (self), .75 (both).
"""

from ml_collections import ConfigDict

from ttm_jax.configs.ablate_scenes import PAIRS, SHARED, continued, look_alikes, masked_rows

BASE_STEPS, STEPS = 800, 400


def get_config() -> ConfigDict:
  config = look_alikes('unet', 'demo_unet_stage2', BASE_STEPS)
  further = continued(STEPS)
  config.stage1 = (('stage1', 'demo_unet_stage1', *SHARED),)
  config.rows = (
    *masked_rows('demo_unet_stage2', further),
    ('TI2V', 'demo_unet_ti2v', *further),
  )
  config.differences = PAIRS
  return config
