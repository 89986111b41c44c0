"""The 4B Movie Gen-style transformer at paper scale (paper, section 10).

128 frames of 256 x 256 at 24 fps are 16 x 32 x 32 latents of 16 channels: 4,096 tokens. Other
configurations of this backbone derive from it.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.base import denoiser


def dit(task: str, masked_blocks: int = 0) -> ConfigDict:
  """Return the configuration of one task.

  Args:
    masked_blocks: K, the number of blocks with masked layers.
  """
  config = denoiser()
  config.preset = 'dit'  # The backbone: 'dit', 'unet' or 'wan'.
  config.task = task
  config.model = ConfigDict(
    {
      'width': 2560,
      'layers': 40,
      'heads': 20,
      'ffn': 6144,
      'masked_blocks': masked_blocks,
      'masked_self': True,
      'masked_cross': True,
      'masked_init': 'gate',
      'channels': 16,
      'grid': (16, 32, 32),
      'patch': (2, 2),
      'qk_norm': True,
      'dtype': 'bfloat16',
      'remat': 'full',
      'unroll': 1,
    }
  )
  config.process = ConfigDict(
    {
      'sigma_min': 1e-5,
      'steps': 50,
      'emulated_steps': 250,
      'prediction': 'velocity',
      'mean': 0.0,
      'shift': 1.0,  # Of training times, and of the shifted schedule.
      'schedule': 'linear_quadratic',  # Or 'shifted'.
      'solver': 'euler',  # Or 'unipc'.
      'time_range': (0.0, 1.0),  # Noise levels of training.
    }
  )
  return config
