"""`ttm_jax.untrusted`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.untrusted import *  # noqa: F403
