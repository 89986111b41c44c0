"""Stands for `ttm_jax.data.described`, for the command of this package alone."""

from ttm_jax.data.described import *  # noqa: F403
