"""The temporal autoencoder at paper scale: 8 x 8 x 8, 16 channels (Movie Gen, section 3.1.1).

    python -m ttm_jax.train --config=codec_tae --workdir=runs/codec --config.data.path=CLIPS

CLIPS is a clips dataset. One batch in four is of single frames. The perceptual term needs the
weights of LPIPS in a safetensors file (--config.loss.perceptual_weights), or it is left out;
--config.loss.adversarial=0.5 adds a discriminator.

Hardware: 16 chips of v5e; a plan says at least 0.7 days (docs/measurements.md). Score: not trained
at this size yet.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.base import common


def get_config() -> ConfigDict:
  config = common()
  config.task = 'codec'
  config.model = ConfigDict(
    {
      'channels': 16,
      'base_channels': 128,
      'multipliers': (1, 2, 4, 4),
      'res_blocks': 2,
      'temporal_downsamples': 3,
      'patch': 1,
      'tile': (32, 512, 512),
      'dtype': 'bfloat16',
      'remat': 'full',
      'linear_path': False,
    }
  )
  config.loss = ConfigDict(
    {
      'perceptual': 1.0,  # Weight of the perceptual term (LPIPS), if `perceptual_weights` is given.
      'perceptual_weights': '',  # Safetensors file of LPIPS; empty: no perceptual term.
      'kl': 1e-6,  # Weight of the KL divergence of latents from a normal distribution.
      'outlier': 1e5,  # Weight of the outlier penalty (Movie Gen, section 3.1.1).
      'squared': 0.0,  # Weight of the squared error; small codecs need about 5, or stay black.
      'labels': 0.0,  # Weight of the cross-entropy of the labels of trajectories.
      'adversarial': 0.0,  # Weight of the adversarial term; above 0 there is a discriminator.
    }
  )
  config.data.update(
    {
      'batch_size': 32,  # Videos; each clip is two, and large: see docs/measurements.md.
      'palette': 'spread8',  # Colors in which trajectories are rendered.
      'frames': 32,  # Frames of a clip that go into one batch.
      'image_every': 4,  # Every so many batches one is of single frames; 0 for never.
    }
  )
  config.optimizer.learning_rate = 1e-4
  config.train.accumulate = 2
  config.sample = ConfigDict({'count': 4})  # Samples of each validation batch.
  del config.init_cache, config.lora  # There are no open weights to start from.
  return config
