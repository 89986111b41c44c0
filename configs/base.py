"""What all runs share: data, optimizer, intervals, job limits, mesh (paper, section 10).

The comment at a key is its description in the reference of the documentation.
"""

from ml_collections import ConfigDict


def common() -> ConfigDict:
  """Return batch 32, AdamW at a constant 2e-5 after 2,000 warm-up steps, 50,000 steps."""
  config = ConfigDict()
  # What is trained: 'text_to_video', 'image_to_video' (TI2V), 'image_to_motion' (stage 1),
  # 'motion_to_video' (stage 2), or 'codec'.
  config.task = ''
  config.seed = 0  # Seed of initial parameters, noise and dropout.
  config.init_from = ''  # Run or pretrained:FOLDER_OR_HUB_ID to start from; a codec: run or linear.
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
      'learning_rate': 2e-5,  # Peak learning rate of AdamW.
      'muon_rate': 0.0,  # Learning rate of Muon for the kernels of blocks; 0: AdamW for all.
      'schedule': 'constant',  # After the warm-up; 'cosine' and 'linear' decay to 0.
      'warmup': 2_000,  # Steps in which the learning rate rises linearly from 0.
      'b1': 0.9,  # Decay of the mean of the gradients.
      'b2': 0.999,  # Decay of the mean of their squares.
      'eps': 1e-8,  # Added to the denominator of an update.
      'weight_decay': 0.01,  # Decoupled weight decay, of kernels alone.
      'clip': 1.0,  # Largest norm of the gradients of a step; larger ones are scaled down.
      'gate_rate': 100.0,  # Learning rate of the gates of masked layers, relative to the rest.
      'offload': False,  # Keep the optimizer state in host memory.
    }
  )
  config.train = ConfigDict(
    {
      'steps': 50_000,  # Optimizer steps of the run.
      'accumulate': 1,  # Microbatches whose gradients are averaged.
      'ema': 0.9999,  # Decay of the averaged parameters, which sampling and export use.
      'spike': 10.0,  # Skip losses this many standard deviations above the mean; 0: never.
      'skip_limit': 20,  # End the run after this many skipped steps in a row.
      'log_every': 50,  # Steps between log lines.
      'evaluate_every': 1_000,  # Steps between validation losses; 0: never.
      'evaluate_batches': 4,  # Validation batches of an evaluation.
      'sample_every': 5_000,  # Steps between samples of the validation split; 0: never.
      'metrics': (),  # Of the samples, such as ('psnr', 'adherence_color'); see docs/metrics.md.
      'checkpoint_every': 1_000,  # Steps between checkpoints.
      'keep_last': 3,  # Newest checkpoints to keep.
      'keep_every': 10_000,  # Also keep the checkpoints of multiples of this step; 0: none.
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
      'dropout': 0.0,  # Share of the inputs of adapters that are dropped in training.
      'targets': (),  # Regular expressions of layers to adapt; empty for those of the preset.
      'base_dtype': 'bfloat16',  # Dtype of frozen kernels; or 'float32'.
    }
  )
  config.mesh = ConfigDict(
    {
      'data': 1,  # Devices along which samples are split and parameters replicated.
      'fsdp': -1,  # Devices along which samples and parameters are split; -1: all that are left.
      'sequence': 1,  # Devices along which the tokens of a sample are split.
      'tensor': 1,  # Devices along which heads and weight matrices are split.
    }
  )
  return config


def denoiser() -> ConfigDict:
  """Return `common` with what the four tasks need besides."""
  config = common()
  # Dtype in which weight gradients are summed: 'compute', or 'float32' at twice the bytes.
  config.train.gradient_dtype = 'compute'
  # Probability that a sample loses its text; the same for its image, and for both, so that three
  # times as many lose something. Guidance needs it (InstructPix2Pix).
  config.train.dropout = 0.05
  # Probability that a sample of stage 2 gets the texts of another sample, so that the trajectory
  # decides where a text contradicts it.
  config.train.exchanged_texts = 0.0
  # How the first frame of the target is given: 'concat', as channels (the paper); 'clean', as a
  # latent frame without noise, as Wan 2.2 5b was trained; or 'change', as channels, and the network
  # generates the difference from it, so that what stands still need not be learned.
  config.first_frame = 'concat'
  config.data.cross_mask = 'box'  # Masked cross-attention by boxes (the paper) or by 'seg'.
  config.sample = ConfigDict(
    {
      'count': 4,  # Samples of each validation batch.
      'visual_scale': 1.5,  # Guidance scale of image and trajectory; 1: no guidance.
      'text_scale': 7.5,  # Guidance scale of the texts; 1: no guidance.
      'rescale': 0.0,  # Guidance rescaling, 0 (off) to 1 (Lin et al. 2024, section 3.4).
    }
  )
  return config
