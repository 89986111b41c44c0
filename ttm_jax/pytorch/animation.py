"""Stands for `ttm_jax.data.animation`, for the command of this package alone."""

from ttm_jax.data.animation import *  # noqa: F403
