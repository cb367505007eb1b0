"""Random streams: one for each stage of the work, and within it one key for each feature."""

from __future__ import annotations

from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Stage(IntEnum):
    """Stages that draw random numbers. The values are part of every result: changing one changes the draws."""

    SAMPLE = 0
    IMPORTANCE = 1
    HYPER = 2
    START = 3
    FEATURES = 4
    RETRY = 5
    RATIO = 6
    JOINT = 7
    SUBSAMPLE = 8
    LAST_RETRY = 9
    FINITE_POPULATION = 10
    SIMILARITY = 11
    HARMONIZE = 12
    ERROR_PATTERNS = 13
    TAILS = 14
    ADAPT = 15


def stage_key(seed: int, stage: Stage) -> Array:
    """Return the key of a stage."""
    return jax.random.fold_in(jax.random.key(seed), int(stage))


def feature_keys(seed: int, stage: Stage, features: np.ndarray) -> Array:
    """Return a key for each feature, made from its index in the study: draws do not depend on blocks or their order."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stage_key(seed, stage), jnp.asarray(features))
