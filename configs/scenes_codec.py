"""The temporal autoencoder for 64-pixel scenes: 2 x 8 x 8 pixels to 32 channels.

    python -m ttm_jax.train --config=scenes_codec --workdir=runs/scenes_codec \\
        --config.data.path=CLIPS

It starts from the principal components of patches, 29.9 dB.

Hardware: one CPU core, about an hour. Score: 32.0 dB, mask IoU .967, with up to eight objects .92
(docs/measurements.md).
"""

from ml_collections import ConfigDict

from ttm_jax.configs import codec_tae


def get_config() -> ConfigDict:
  config = codec_tae.get_config()
  config.model.update(
    {
      'channels': 32,
      'base_channels': 32,
      'multipliers': (1, 2),
      'res_blocks': 1,
      'temporal_downsamples': 1,
      'patch': 4,
      'tile': (8, 64, 64),
      'dtype': 'float32',
      'remat': 'none',
      'linear_path': True,
    }
  )
  config.init_from = 'linear'  # Start from the principal components of patches.
  # Trajectories are small shapes on black: all their latents would count as outliers.
  config.loss.update({'squared': 20.0, 'outlier': 0.0, 'labels': 2.0})
  config.data.update({'frames': 8, 'batch_size': 4, 'threads': 1})
  config.optimizer.update(
    {
      'learning_rate': 2e-3,
      'muon_rate': 0.01,
      'schedule': 'cosine',
      'warmup': 100,
      'b2': 0.99,
      'weight_decay': 0.0,
    }
  )
  config.train.update(
    {
      'steps': 12_000,
      'accumulate': 1,
      'ema': 0.999,
      'log_every': 100,
      'evaluate_every': 1_000,
      'sample_every': 8_000,
      'checkpoint_every': 1_000,
      'keep_every': 0,
    }
  )
  return config
