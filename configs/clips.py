"""The preset `dit` shrunk for a handful of filmed clips, to be learnt by heart on a CPU.

For trying one's own videos and masks through the whole chain: 16 frames of 64 x 112 pixels, encoded
with `--codec linear:2x8x8x96`, their objects in colours that never change (`--no-permute`).

    python -m data_tools.import_folder --source videos --captions videos/captions.json \
        --frames 16 --fps 12 --size 64x112 --out datasets/clips
    python -m data_tools.encode --clips datasets/clips --out datasets/clips-dit \
        --codec linear:2x8x8x96 --words_prompt_length 24 --no-permute
"""

from ml_collections import ConfigDict

from configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """A paper-scale configuration at this size."""
  config = demo.shrink(config, masked_blocks=2)
  channels = 96
  config.model.visual_channels = config.model.visual_channels // config.model.channels * channels
  config.model.update(
    {'channels': channels, 'width': 192, 'ffn': 512, 'heads': 6, 'grid': (8, 8, 14)}
  )
  config.data.batch_size = 8
  config.train.update({'steps': 700, 'sample_every': 350, 'evaluate_every': 350})
  # Few clips: nothing is gained by hiding parts of them.
  config.train.dropout = 0.0
  return config
