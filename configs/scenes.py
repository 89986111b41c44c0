"""The transformer for 64-pixel scenes, on latents of a temporal autoencoder.

All eleven motions, up to four objects. About an hour and a half on one CPU core.

    python -m data_tools.make_scenes --out=datasets/scenes64 --size=64 --max_objects=4 \
        --train=16000 --validation=256 --workers=2
    python -m ttm_jax.train --config=configs/scenes_codec.py --workdir=runs/scenes_codec \
        --config.data.path=datasets/scenes64
    python -m data_tools.encode --clips=datasets/scenes64 --out=datasets/scenes64-dit \
        --codec=runs/scenes_codec --max_objects=4 --words_length=48 --words_prompt_length=12 \
        --no-permute
    python -m ttm_jax.train --config=configs/scenes_stage1.py --workdir=runs/scenes_stage1 \
        --config.data.path=datasets/scenes64-dit
    python -m ttm_jax.train --config=configs/scenes_stage2.py --workdir=runs/scenes_stage2 \
        --config.data.path=datasets/scenes64-dit
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict, steps: int) -> ConfigDict:
  """Return a paper-scale configuration at this size, trained as the demo is.

  Args:
    config: the configuration.
    steps: training steps.
  """
  config = demo.recipe(config, steps, masked_blocks=2)
  config.model.update({'width': 192, 'heads': 6, 'ffn': 512})
  config.train.update({'evaluate_every': 1_000, 'sample_every': 2_000})
  return config
