"""`ttm_jax.images`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.images import *  # noqa: F403
