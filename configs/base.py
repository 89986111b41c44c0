"""What all runs share: data, optimizer, intervals, job limits, mesh (paper, section 10)."""

from ml_collections import ConfigDict


def common() -> ConfigDict:
  """Return batch 32, AdamW at a constant 2e-5 after 2,000 warm-up steps, 50,000 steps."""
  config = ConfigDict()
  config.task = ''
  config.seed = 0
  config.init_from = ''  # Run to start from, or pretrained:FOLDER_OR_HUB_ID.
  config.init_cache = ''  # Folder for a converted copy of open weights, for later runs.
  config.data = ConfigDict(
    {
      'path': '',  # The dataset, or a mixture, DIR_A:0.7,DIR_B:0.3; required.
      'batch_size': 32,  # Global batch, over all processes.
      'seed': 0,  # Seed of the data order.
      'threads': 16,  # Reader threads of each process.
    }
  )
  config.optimizer = ConfigDict(
    {
      'learning_rate': 2e-5,
      'muon_rate': 0.0,  # Learning rate of Muon for the kernels of blocks; 0: AdamW for all.
      'schedule': 'constant',  # Or 'cosine'.
      'warmup': 2_000,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.01,
      'clip': 1.0,
      'gate_rate': 100.0,  # Learning rate of the gates of masked layers, relative to the rest.
      'offload': False,  # Keep the optimizer state in host memory.
    }
  )
  config.train = ConfigDict(
    {
      'steps': 50_000,
      'accumulate': 1,  # Microbatches whose gradients are averaged.
      'ema': 0.9999,
      'spike': 10.0,  # Skip losses this many standard deviations above the mean; 0: never.
      'skip_limit': 20,  # End the run after this many skipped steps in a row.
      'log_every': 50,
      'evaluate_every': 1_000,
      'evaluate_batches': 4,
      'sample_every': 5_000,
      'metrics': (),  # Of the samples, such as ('psnr', 'adherence_color'); see docs/metrics.md.
      'checkpoint_every': 1_000,
      'keep_last': 3,
      'keep_every': 10_000,
      'keep_best': '',  # Also keep the best checkpoint by 'loss' or one of `metrics`, and use it.
    }
  )
  config.job = ConfigDict(
    {
      'start_limit': 300,  # Seconds in which all processes must have come.
      'peer_limit': 60,  # Seconds without a heartbeat after which a process counts as lost.
      'hang_limit': 1_800,  # Seconds without progress after which a process ends.
      'wandb': '',  # A Weights & Biases project that the metrics go to besides.
    }
  )
  config.lora = ConfigDict(
    {
      'rank': 0,  # Above 0: train adapters and new parts alone, and freeze the rest.
      'alpha': 16.0,  # Adapters are scaled by alpha / rank.
      'dropout': 0.0,  # Of the inputs of adapters.
      'targets': (),  # Regular expressions of layers to adapt; empty for those of the preset.
      'base_dtype': 'bfloat16',  # Of frozen kernels; or 'float32'.
    }
  )
  config.mesh = ConfigDict({'data': 1, 'fsdp': -1, 'sequence': 1, 'tensor': 1})
  return config
