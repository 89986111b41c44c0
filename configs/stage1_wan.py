"""Stage 1 with Wan (paper, section 3.2): image, its masks, motion prompt -> trajectory.

    python -m ttm_jax.train --config=stage1_wan --workdir=runs/stage1 --config.data.path=DATASET

Sizes are 1.3b (the default), 5b and 14b: --config=stage1_wan:5b. With LoRA:
--config=stage1_wan:5b,lora. Training starts from the open text-to-video weights;
--config.init_from=pretrained:FOLDER takes them from a folder.

Hardware: 1.3b on one 80 GB GPU or 4 chips of v5e, 5b on 8 chips of v5e, 14b on 8 H100s; plans of
stage 2 say at least 3.1, 3.9, 1.1 and 2.9 days (docs/measurements.md). Score: not trained at this
size yet; demo_wan_stage1 is the small one.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.wan import wan


def get_config(form: str = '1.3b') -> ConfigDict:
  return wan('image_to_motion', form)
