"""The preset `dit` shrunk for the embedded scenes: minutes on two CPU cores.

Other sizes, the same network. What makes it learn fast: the network predicts the data, training
times lean to noise, and the rate falls along a cosine.
"""

from ml_collections import ConfigDict


def shrink(config: ConfigDict, masked_blocks: int = 1) -> ConfigDict:
  """A paper-scale configuration of the preset at demo size."""
  channels = 32
  visual = config.model.visual_channels // config.model.channels
  config.model.update(
    {
      'width': 128,
      'layers': 4,
      'heads': 4,
      'ffn': 384,
      'masked_blocks': min(config.model.masked_blocks, masked_blocks),
      'channels': channels,
      'visual_channels': visual * channels,
      'grid': (4, 8, 8),
      'dtype': 'float32',
      'remat': 'none',
      'unroll': 4,
    }
  )
  config.process.update({'steps': 10, 'prediction': 'data', 'mean': -1.0})
  shorten(config)
  return config


def shorten(config: ConfigDict) -> None:
  """Batches, optimiser and length of a run at demo size."""
  config.sample.update({'visual_scale': 1.0, 'text_scale': 1.0})
  config.data.update({'batch_size': 8, 'threads': 2})
  config.optimizer.update(
    {'learning_rate': 4e-3, 'schedule': 'cosine', 'warmup': 100, 'b2': 0.99, 'weight_decay': 0.0}
  )
  config.train.update(
    {
      'steps': 5_600,
      'dropout': 0.0,  # It serves guidance, which so small a network gains nothing from.
      'ema': 0.998,
      'evaluate_every': 600,
      'evaluate_batches': 8,
      'sample_every': 1_800,
      'checkpoint_every': 600,
      'keep_every': 0,
    }
  )
