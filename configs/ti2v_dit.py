"""The single-stage baseline TI2V (paper, section 4.2): picture, caption -> video.

    python -m ttm_jax.train --config=configs/ti2v_dit.py --config.data.path=DATASET \\
        --config.init_from=PRETRAINED

The extra layers stay, unmasked, so that it has as many parameters as stage 2."""

from ml_collections import ConfigDict

from configs.dit import dit


def get_config() -> ConfigDict:
  return dit('image_to_video', visual=1, masked_blocks=10)
