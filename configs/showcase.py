"""The transformer for scenes that one wants to look at: all motions, up to four objects, 16 frames.

`python -m ttm_jax.showcase` makes the scenes, trains both stages and scores them, at the size that
the machine allows: 64 x 64 pixels on a CPU (`showcase_stage1`, `showcase_stage2`), 128 x 128 on a
GPU (`showcase_large_stage1`, `showcase_large_stage2`). Tokens are single latents of 8 x 8 pixels,
so that outlines stay sharp.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """Return a paper-scale configuration for 64 x 64 pixels on a CPU: five million parameters."""
  config = demo.shrink(config, masked_blocks=2)
  config.model.update(
    {
      'width': 192,
      'layers': 6,
      'heads': 6,
      'ffn': 512,
      'channels': 48,
      'grid': (8, 8, 8),
      'patch': (1, 1),
      'unroll': 6,
    }
  )
  config.train.update(
    {
      'steps': 20_000,
      'evaluate_every': 1_000,
      'sample_every': 5_000,
      'checkpoint_every': 300,  # Minutes of work that are lost when the run is stopped.
    }
  )
  return config


def shrink_for_gpu(config: ConfigDict) -> ConfigDict:
  """Return a paper-scale configuration for 128 x 128 pixels on one GPU: 100 million parameters."""
  config = shrink(config)
  config.model.update(
    {
      'width': 768,
      'layers': 10,
      'heads': 12,
      'ffn': 2048,
      'grid': (8, 16, 16),
      'dtype': 'bfloat16',
      'unroll': 1,
    }
  )
  config.process.steps = 20
  config.data.update({'batch_size': 32, 'threads': 8})
  config.optimizer.update({'learning_rate': 1e-3, 'warmup': 1_000})
  config.train.update(
    {
      'steps': 60_000,
      'ema': 0.9995,
      'evaluate_every': 2_000,
      'sample_every': 10_000,
      'checkpoint_every': 1_000,
    }
  )
  return config
