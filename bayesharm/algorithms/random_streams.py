"""Streams of random numbers: one for each stage of the work, one key for each feature."""

from __future__ import annotations

from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Stage(IntEnum):
    """Each stage draws from its own stream of random numbers."""

    SAMPLE = 0
    NODES = 1
    HYPER = 2
    START = 3
    FEATURES = 4
    RETRY = 5
    RATIO = 6
    JOINT = 7
    THIN = 8
    LAST_RETRY = 9
    SIZES = 10
    SIMILARITY = 11
    HARMONIZE = 12


def stage_key(seed: int, stage: Stage) -> Array:
    """The key of a stage."""
    return jax.random.fold_in(jax.random.key(seed), int(stage))


def feature_keys(seed: int, stage: Stage, features: np.ndarray) -> Array:
    """A key for each feature by its index in the study, so that blocks and order do not matter."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stage_key(seed, stage), jnp.asarray(features))
