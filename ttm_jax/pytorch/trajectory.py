"""`ttm_jax.trajectory`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.trajectory import *  # noqa: F403
