"""The transformer shrunk for procedural scenes: minutes on two CPU cores.

It learns fast because the network predicts the data, training times lean towards noise, Muon
updates the kernels, and the learning rates decay to zero.
"""

from ml_collections import ConfigDict

# Logit-normal mean of the training times of stage 1: nearly all noise. There image and text decide
# the motion, and little is left to refine later.
MOTION_MEAN = -3.5


def shrink(config: ConfigDict, masked_blocks: int = 1, muon_rate: float = 0.02) -> ConfigDict:
  """Return a paper-scale configuration of the transformer at demo size.

  Args:
    config: the configuration.
    masked_blocks: upper limit of K.
    muon_rate: learning rate of Muon, which needs half the steps of AdamW; on a CPU each takes half
      as long again.
  """
  channels = 32
  config.model.update(
    {
      'width': 128,
      'layers': 4,
      'heads': 4,
      'ffn': 384,
      'masked_blocks': min(config.model.masked_blocks, masked_blocks),
      'channels': channels,
      'grid': (4, 8, 8),
      'dtype': 'float32',
      'remat': 'none',
      'unroll': 4,
    }
  )
  config.process.update({'steps': 10, 'prediction': 'data', 'mean': -1.0})
  shorten(config)
  config.optimizer.muon_rate = muon_rate
  config.train.steps = 2_800
  return config


def recipe(config: ConfigDict, steps: int, masked_blocks: int = 1) -> ConfigDict:
  """Return a configuration at demo size that trains for a number of steps, as the demo does.

  Batches are twice as large as elsewhere at this size: what Muon computes in a step does not depend
  on them, and on a CPU it is two fifths of a step of 8.

  Args:
    config: a paper-scale configuration.
    steps: training steps.
    masked_blocks: upper limit of K.
  """
  config = shrink(config, masked_blocks)
  config.data.batch_size = 16
  config.optimizer.schedule = 'linear'
  config.train.steps = steps
  return config


def shorten(config: ConfigDict) -> None:
  """Set batch size, optimizer and length of a run to demo size."""
  config.sample.update({'visual_scale': 1.0, 'text_scale': 1.0})
  config.data.update({'batch_size': 8, 'threads': 2})
  config.optimizer.update(
    {'learning_rate': 4e-3, 'schedule': 'cosine', 'warmup': 100, 'b2': 0.99, 'weight_decay': 0.0}
  )
  config.optimizer.gate_rate = 1.0  # The rate is high already.
  config.train.update(
    {
      'steps': 5_600,
      'dropout': 0.0,  # Dropout serves guidance, which does not help so small a network.
      'ema': 0.998,
      'evaluate_every': 600,
      'evaluate_batches': 8,
      'sample_every': 1_800,
      'checkpoint_every': 600,
      'keep_every': 0,
    }
  )
