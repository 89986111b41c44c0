"""What all runs have in common: optimiser, schedule of the run, mesh (paper, section 10)."""

from ml_collections import ConfigDict


def common() -> ConfigDict:
  """Batch 32, AdamW at a constant 2e-5 after 2 000 steps of warm-up, 50 000 steps."""
  config = ConfigDict()
  config.task = ''
  config.seed = 0
  config.init_from = ''  # A run whose weights to start from.
  config.data = ConfigDict(
    {
      'path': '',  # The dataset; must be given.
      'batch_size': 32,  # Of all processes together.
      'seed': 0,  # Of the order of records.
      'threads': 16,  # That read ahead, in each process.
    }
  )
  config.optimizer = ConfigDict(
    {
      'learning_rate': 2e-5,
      'schedule': 'constant',  # Or 'cosine'.
      'warmup': 2_000,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.01,
      'clip': 1.0,
      'offload': False,  # Its moments lie in the memory of the host.
    }
  )
  config.train = ConfigDict(
    {
      'steps': 50_000,
      'accumulate': 1,  # Parts of a batch whose gradients are averaged.
      'ema': 0.9999,
      'spike': 10.0,  # A loss so many deviations above its running mean is skipped; 0: none is.
      'skip_limit': 20,  # So many skipped steps in a row end the run.
      'log_every': 50,
      'evaluate_every': 1_000,
      'evaluate_batches': 4,
      'sample_every': 5_000,
      'checkpoint_every': 1_000,
      'keep_last': 3,
      'keep_every': 10_000,
    }
  )
  config.job = ConfigDict(
    {
      'start_limit': 300,  # Seconds in which all processes must have come.
      'peer_limit': 60,  # Seconds without a sign of life after which a process counts as dead.
      'hang_limit': 1_800,  # Seconds without progress after which the job ends.
      'wandb': '',  # A Weights & Biases project that the metrics go to besides.
    }
  )
  config.mesh = ConfigDict({'data': 1, 'fsdp': -1, 'sequence': 1, 'tensor': 1})
  return config
