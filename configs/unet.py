"""Stable Diffusion 1.5 with AnimateDiff v3 at paper scale (paper, section 10).

16 frames of 512 x 512 at 6 fps are 16 x 64 x 64 latents of 4 channels. Other configurations of this
backbone derive from it. Encode a dataset for it with

    python -m data_tools.encode --clips=CLIPS --out=DATASET --preset=unet \\
        --codec=sd_vae:stable-diffusion-v1-5/stable-diffusion-v1-5
"""

from ml_collections import ConfigDict

from ttm_jax.configs.base import denoiser


def unet(task: str, masked_blocks: int = 0) -> ConfigDict:
  """Return the configuration of one task.

  Args:
    masked_blocks: K, the number of blocks with masked layers.
  """
  config = denoiser()
  config.preset = 'unet'  # The backbone: 'dit', 'unet' or 'wan'.
  config.task = task
  config.model = ConfigDict(
    {
      'widths': (320, 640, 1280, 1280),
      'units': 2,
      'heads': 8,
      'groups': 32,
      'text_width': 768,
      'masked_blocks': masked_blocks,
      'masked_self': True,
      'masked_cross': True,
      'masked_init': 'gate',
      'masked_scope': 'spatiotemporal',  # Or 'spatial', or 'skip_level0'.
      'motion_norm': 'clip',  # Or 'frame'.
      'motion_length': 32,
      'channels': 4,
      'dtype': 'bfloat16',
      'remat': 'full',
    }
  )
  config.process = ConfigDict(
    {
      'beta_schedule': 'linear',  # AnimateDiff's; 'scaled_linear' is Stable Diffusion's.
      'beta_start': 0.00085,
      'beta_end': 0.012,
      'train_steps': 1000,
      'steps': 50,
      'prediction': 'v',  # Or 'data'.
      'time_power': 1.0,  # Of training times: 1 is uniform, more leans towards noise.
    }
  )
  config.sample.rescale = 0.7
  return config
