"""The rows of `configs/ablate_flow.py` for the small U-Net.

    python -m ttm_jax.ablate --config=ablate_flow_unet --workdir=runs/ablation_flow_unet

Both stages train for half the steps of the demo (`configs/demo_unet.py`).

Hardware: one of two CPU cores with other work on both, two hours for three seeds. Score: motion
accuracy (direction) of both stages .94 (masks), .62 (flow); object PSNR 16.7 and 15.1 dB.
"""

from ml_collections import ConfigDict

from ttm_jax.configs.ablate_flow import masks_or_flow

STAGE1_STEPS, STAGE2_STEPS = 750, 400


def get_config() -> ConfigDict:
  return masks_or_flow(
    'unet',
    ('demo_unet_stage1', f'train.steps={STAGE1_STEPS}'),
    ('demo_unet_stage2', f'train.steps={STAGE2_STEPS}'),
  )
