"""`ttm_jax.errors`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.errors import *  # noqa: F403
