"""The transformer of the demo on a few filmed videos, scored on windows that it has not seen.

8 frames of 48 x 80 pixels. The last clip of each video is for validation. Of each other clip there
are 16 variants: cropped, mirrored, played backwards.

    python -m data_tools.import_folder --source videos --captions videos/captions.json \
        --frames 8 --stride 2 --fps 12 --size 48x80 --validation_windows 1 --out datasets/films
    python -m data_tools.augment --clips datasets/films --out datasets/films16 --variants 16
    python -m data_tools.encode --clips datasets/films16 --out datasets/films16-dit \
        --codec lapped:2x8x8x64 --words_prompt_length 24 --no-permute
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """Return a paper-scale configuration at this size."""
  config = demo.shrink(config)
  config.model.update({'channels': 64, 'grid': (4, 6, 10)})
  config.train.update({'steps': 800, 'sample_every': 0})
  return config
