"""`ttm_jax.codecs.windows`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.codecs.windows import *  # noqa: F403
