"""The preset `unet` shrunk for the embedded scenes: minutes on two CPU cores.

The same network with two levels in place of four and one unit in each in place of two; the one
transformer of its encoder is masked. The data are those of `configs/demo.py`, and so is what makes
it learn fast: the network predicts the data. A step takes nearly four times as long as there, and
does more.
"""

from ml_collections import ConfigDict

from configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """A paper-scale configuration of the preset at demo size."""
  channels = 32
  visual = config.model.visual_channels // config.model.channels
  config.model.update(
    {
      'widths': (48, 96),
      'units': 1,
      'heads': 4,
      'groups': 16,
      'text_width': 128,
      'masked_blocks': min(config.model.masked_blocks, 1),
      'channels': channels,
      'visual_channels': visual * channels,
      'dtype': 'float32',
      'remat': 'none',
    }
  )
  config.process.update({'steps': 10, 'prediction': 'data'})
  demo.shorten(config)
  config.train.steps = 4_000
  config.optimizer.learning_rate = 2e-3
  config.sample.rescale = 0.0
  return config
