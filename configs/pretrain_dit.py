"""Text-to-video pre-training of the 4B transformer: caption -> video.

    python -m ttm_jax.train --config=configs/pretrain_dit.py --config.data.path=DATASET

The weights that the stages start from (--config.init_from=RUN)."""

from ml_collections import ConfigDict

from configs.dit import dit


def get_config() -> ConfigDict:
  return dit('text_to_video')
