"""`ttm_jax.atomic`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.atomic import *  # noqa: F403
