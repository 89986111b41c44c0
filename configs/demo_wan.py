"""Wan shrunk for procedural scenes, with the data and recipe of `configs/demo.py`.

The network predicts the data, without a shift of the times, since it is trained from scratch.
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """Return a configuration of Wan at demo size, trained from scratch."""
  config.init_from = ''
  config.model.update(
    {
      'width': 128,
      'layers': 4,
      'heads': 4,
      'ffn': 576,  # As many parameters as the gated network of demo_stage1.
      'masked_blocks': min(config.model.masked_blocks, 1),
      'channels': 32,
      'dtype': 'float32',
      'remat': 'none',
      'unroll': 4,
    }
  )
  config.process.update(
    {
      'sigma_min': 1e-5,
      'steps': 10,
      'prediction': 'data',
      'mean': -1.0,
      'shift': 1.0,
      'schedule': 'linear_quadratic',
      'solver': 'euler',
    }
  )
  demo.shorten(config)
  config.optimizer.muon_rate = 0.02
  config.train.steps = 1_400
  return config
