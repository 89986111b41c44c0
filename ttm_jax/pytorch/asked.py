"""Stands for `ttm_jax.data.asked`, for the command of this package alone."""

from ttm_jax.data.asked import *  # noqa: F403
