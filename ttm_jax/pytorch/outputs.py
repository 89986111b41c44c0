"""`ttm_jax.outputs`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.outputs import *  # noqa: F403
