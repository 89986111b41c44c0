"""A student of stage 2 of the demo's transformer that takes the guidance scales as inputs.

    python -m ttm_jax.train --config=demo_distill_guidance_stage2 --workdir=runs/student2 \\
        --config.data.path=runs/demo/latents --config.init_from=runs/guided2

The demo's own runs have no guidance. A teacher that has some is trained by `demo_stage2` with
--config.train.dropout=0.1 --config.train.exchanged_texts=0: guidance by texts needs its own ones.

Hardware: two CPU cores. Score: see docs/distillation.md.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo_stage2
from ttm_jax.configs.distill import distill_demo_guidance


def get_config() -> ConfigDict:
  return distill_demo_guidance(demo_stage2.get_config())
