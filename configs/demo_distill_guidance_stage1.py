"""A student of stage 1 of the demo's transformer that takes the guidance scales as inputs.

    python -m ttm_jax.train --config=demo_distill_guidance_stage1 --workdir=runs/student1 \\
        --config.data.path=runs/demo/latents --config.init_from=runs/guided1

The demo's own runs have no guidance. A teacher that has some is trained by `demo_stage1` with
--config.train.dropout=0.1.

Hardware: two CPU cores. Score: see docs/distillation.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_stage1
from ttm_jax.configs.distill import distill_demo_guidance


def get_config() -> ConfigDict:
  return distill_demo_guidance(demo_stage1.get_config())
