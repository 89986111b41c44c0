"""`ttm_jax.text.word_ids`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.text.word_ids import *  # noqa: F403
