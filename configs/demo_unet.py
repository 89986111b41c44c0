"""The preset `unet` shrunk for the embedded scenes: minutes on two CPU cores.

The same network with three levels in place of four and one unit in each in place of two; both
transformers of its encoder are masked. The data and the length of the run are those of
`configs/demo.py`.
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
  config.process.update({'steps': 20, 'prediction': 'data'})
  demo.shorten(config)
  config.optimizer.learning_rate = 2e-3
  config.sample.rescale = 0.0
  return config
