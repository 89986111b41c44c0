"""Wan 2.1 and 2.2 (open weights, Apache-2.0) at its published sizes.

Other configurations of this backbone derive from it. The size follows the name after a colon, and
`,lora` trains adapters instead of all weights: `--config=stage2_wan:5b,lora`. At 256 x 256, 125
frames are 32 x 32 x 32 latents of 16 channels (8,192 tokens) for 1.3b and 14b; 121 frames are 31 x
16 x 16 latents of 48 channels (1,984 tokens) for 5b.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.base import denoiser
from ttm_jax.errors import InputError

# K is a quarter of the blocks, as in the paper: 10 of 40.
SIZES = {
  '1.3b': {'width': 1536, 'layers': 30, 'heads': 12, 'ffn': 8960, 'channels': 16},
  '5b': {'width': 3072, 'layers': 30, 'heads': 24, 'ffn': 14336, 'channels': 48},
  '14b': {'width': 5120, 'layers': 40, 'heads': 40, 'ffn': 13824, 'channels': 16},
}
MASKED_BLOCKS = {'1.3b': 8, '5b': 8, '14b': 10}
WEIGHTS = {
  '1.3b': 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers',
  '5b': 'Wan-AI/Wan2.2-TI2V-5B-Diffusers',
  '14b': 'Wan-AI/Wan2.1-T2V-14B-Diffusers',
}


def wan(task: str, form: str = '1.3b', masked: bool = False) -> ConfigDict:
  """Return the configuration of one task, initialized from open weights.

  Args:
    task: name of the task.
    form: a key of SIZES, or one followed by ',lora' to train adapters and the new parts only.
    masked: whether the first quarter of the blocks has the masked layers.

  Raises:
    InputError: if the form is unknown.
  """
  size, comma, kind = form.partition(',')
  if size not in SIZES or (comma and kind != 'lora'):
    forms = [*SIZES, *(f'{size},lora' for size in SIZES)]
    raise InputError(f'size {form!r} of the configuration is unknown: choose one of {forms}')
  config = denoiser()
  config.preset = 'wan'  # The backbone: 'dit', 'unet' or 'wan'.
  config.task = task
  config.init_from = f'pretrained:{WEIGHTS[size]}'
  config.model = ConfigDict(
    {
      **SIZES[size],
      'masked_blocks': MASKED_BLOCKS[size] if masked else 0,
      'masked_self': True,
      'masked_cross': True,
      'masked_init': 'gate',
      'dtype': 'bfloat16',
      'remat': 'full',
      'unroll': 1,
    }
  )
  config.process = ConfigDict(
    {
      'sigma_min': 0.0,
      'steps': 50,
      'prediction': 'flow',  # Wan predicts noise - data.
      'mean': 0.0,
      'shift': 5.0,  # Of the noise levels of training and sampling.
      'schedule': 'shifted',
      'solver': 'unipc',
      'time_range': (0.0, 1.0),  # Part of it for one expert of Wan 2.2 A14B: (0.875, 1.0).
    }
  )
  if kind == 'lora':
    config.lora.update({'rank': 32, 'alpha': 32.0})
    config.optimizer.update({'learning_rate': 1e-4, 'warmup': 200})
    config.train.steps = 10_000
  config.sample.text_scale = 5.0
  return config
