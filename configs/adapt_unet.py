"""From open weights to the process of the paper: caption -> video, v-prediction, zero terminal SNR.

Stable Diffusion and AnimateDiff predict the noise, and never saw pure noise. A few thousand steps
on all weights teach them both; the stages then start from this run (--config.init_from=RUN).

    python -m ttm_jax.train --config=configs/adapt_unet.py --config.data.path=DATASET

Folders do in place of the ids of the hub; a comma stands between the image network and the motion
modules."""

from ml_collections import ConfigDict

from configs.unet import unet


def get_config() -> ConfigDict:
  config = unet('text_to_video')
  config.init_from = (
    'pretrained:stable-diffusion-v1-5/stable-diffusion-v1-5'
    ',guoyww/animatediff-motion-adapter-v1-5-3'
  )
  config.train.steps = 10_000
  config.optimizer.warmup = 1_000
  return config
