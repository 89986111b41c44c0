"""A student of stage 1 of the demo's U-Net, in four steps (see `configs/distill.py`).

    python -m ttm_jax.train --config=demo_distill_unet_stage1 --workdir=runs/student1 \\
        --config.data.path=runs/demo-unet/latents --config.init_from=runs/demo-unet/stage1

Hardware: two CPU cores. Score: see docs/distillation.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_unet_stage1
from ttm_jax.configs.distill import distill_demo


def get_config() -> ConfigDict:
  return distill_demo(demo_unet_stage1.get_config())
