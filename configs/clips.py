"""The transformer shrunk to overfit a few real clips on a CPU.

Try your own videos and masks through both stages: 16 frames of 64 x 112 pixels, encoded with
`--codec linear:2x8x8x96`, with object colors that never change (`--no-permute`).

    python -m data_tools.import_folder --source videos --captions videos/captions.json \
        --frames 16 --fps 12 --size 64x112 --out datasets/clips
    python -m data_tools.encode --clips datasets/clips --out datasets/clips-dit \
        --codec linear:2x8x8x96 --words_prompt_length 24 --no-permute
"""

from ml_collections import ConfigDict

from ttm_jax.configs import demo


def shrink(config: ConfigDict) -> ConfigDict:
  """Return a paper-scale configuration at this size."""
  config = demo.shrink(config, masked_blocks=2, muon_rate=0.0)
  channels = 96
  config.model.update(
    {'channels': channels, 'width': 192, 'ffn': 512, 'heads': 6, 'grid': (8, 8, 14)}
  )
  config.data.batch_size = 8
  config.train.update({'steps': 700, 'sample_every': 350, 'evaluate_every': 350})
  # Dropout serves generalization and guidance; neither matters here.
  config.train.dropout = 0.0
  return config
