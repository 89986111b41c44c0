"""The TI2V baseline with Wan (paper, section 4.2): image, caption -> video.

    python -m ttm_jax.train --config=ti2v_wan --workdir=runs/ti2v --config.data.path=DATASET

The masked layers stay, as plain attention, so that it has as many parameters as stage 2. Sizes are
1.3b (the default), 5b and 14b: --config=ti2v_wan:5b.

Score: not trained at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.wan import wan


def get_config(size: str = '1.3b') -> ConfigDict:
  return wan('image_to_video', size, masked=True)
