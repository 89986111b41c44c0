"""Stands for `ttm_jax.data.position_words`."""

from ttm_jax.data.position_words import *  # noqa: F403
