"""Stands for `ttm_jax.request`, which an exported folder has here itself (see `sources`)."""

from ttm_jax.request import *  # noqa: F403
