"""Adapt open weights to the paper's process: caption -> video, v-prediction, zero terminal SNR.

    python -m ttm_jax.train --config=adapt_unet --workdir=runs/adapted --config.data.path=DATASET

Stable Diffusion and AnimateDiff predict the noise and never saw pure noise. Ten thousand steps on
all weights teach them both; the stages start from this run (--config.init_from=runs/adapted).
Folders work in place of hub ids; a comma separates the image network and the motion modules.

Hardware: 16 chips of v5e; a plan says at least 0.1 days (docs/measurements.md). Score: not trained
yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.unet import unet


def get_config() -> ConfigDict:
  config = unet('text_to_video')
  config.init_from = (
    'pretrained:stable-diffusion-v1-5/stable-diffusion-v1-5'
    ',guoyww/animatediff-motion-adapter-v1-5-3'
  )
  config.train.steps = 10_000
  config.optimizer.warmup = 1_000
  return config
