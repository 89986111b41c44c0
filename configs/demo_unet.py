"""The U-Net shrunk for procedural scenes: 26 minutes of a core for both stages.

Two levels instead of four and one unit per level instead of two; the one transformer of its encoder
has the masked layers. Data and recipe are those of `configs/demo.py`. A step takes nearly four
times as long as the transformer's. Training times lean towards noise (`time_power`): there the text
decides where objects go.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """Return a paper-scale configuration of the U-Net at demo size."""
  channels = 32
  config.model.update(
    {
      'widths': (48, 96),
      'units': 1,
      'heads': 4,
      'groups': 16,
      'text_width': 128,
      'masked_blocks': min(config.model.masked_blocks, 1),
      'channels': channels,
      'dtype': 'float32',
      'remat': 'none',
    }
  )
  config.process.update({'steps': 10, 'prediction': 'data', 'time_power': 3.0})
  demo.shorten(config)
  config.optimizer.muon_rate = 0.02
  config.train.steps = 1_500
  config.optimizer.learning_rate = 2e-3
  config.sample.rescale = 0.0
  return config
