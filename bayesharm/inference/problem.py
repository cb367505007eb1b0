"""What every stage of the inference shares, and the keys of its random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.design import Design
from bayesharm.marginal import Plan, make_plan
from bayesharm.moments import lay_out
from bayesharm.spec import Priors

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


@dataclass(frozen=True, eq=False)
class Problem:
    """A study laid out for inference; compared by identity, so that JAX takes it as a static argument.

    Attributes
    ----------
    plan : Plan
    log_medians : (scale,) array
        Prior medians of the log-scales of standardized features.
    contrasts : (effect, column) array
        All reported contrasts, group after group.
    priors : Priors
    noise_ratio : bool
        Whether scanners differ in noise.
    n_scanners : int
    """

    plan: Plan
    log_medians: np.ndarray
    contrasts: np.ndarray
    priors: Priors
    noise_ratio: bool
    n_scanners: int


class Gaussian(NamedTuple):
    """A Normal prior of the log-scales, the same for every feature; (scale,) each."""

    mean: np.ndarray
    sd: np.ndarray


def make_problem(design: Design) -> Problem:
    """Lay a design out for inference."""
    return Problem(
        plan=make_plan(design, lay_out(design)),
        log_medians=np.log(design.scale_medians),
        contrasts=np.concatenate([group.contrasts for group in design.effects]),
        priors=design.spec.priors,
        noise_ratio=design.spec.noise_ratio == "scanner",
        n_scanners=len(design.scanners),
    )


def stage_key(seed: int, stage: Stage) -> Array:
    """The key of a stage."""
    return jax.random.fold_in(jax.random.key(seed), int(stage))


def feature_keys(seed: int, stage: Stage, features: np.ndarray) -> Array:
    """A key for each feature by its index in the study, so that blocks and order do not matter."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(stage_key(seed, stage), jnp.asarray(features))
