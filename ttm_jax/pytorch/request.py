"""Stands for `ttm_jax.request`, which an exported folder has itself in this place (see `sources`)."""

from ttm_jax.request import *  # noqa: F403
