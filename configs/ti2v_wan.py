"""The TI2V baseline with Wan (paper, section 4.2): image, caption -> video.

    python -m ttm_jax.train --config=ti2v_wan --workdir=runs/ti2v --config.data.path=DATASET

Sizes are 1.3b (the default), 5b and 14b: --config=ti2v_wan:5b. With LoRA:
--config=ti2v_wan:5b,lora. Training starts from the open text-to-video weights;
--config.init_from=pretrained:FOLDER takes them from a folder. The masked layers stay, as plain
attention, so that it has as many parameters as stage 2.

Hardware: 1.3b on one 80 GB GPU or 4 chips of v5e, 5b on 8 chips of v5e, 14b on 8 H100s; plans of
stage 2 say at least 3.1, 3.9, 1.1 and 2.9 days (docs/measurements.md). Score: not trained at this
size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.wan import wan


def get_config(form: str = '1.3b') -> ConfigDict:
  return wan('image_to_video', form, masked=True)
