"""`ttm_jax.label_images`, which itself lies here in an exported folder (see `sources`)."""

from ttm_jax.label_images import *  # noqa: F403
