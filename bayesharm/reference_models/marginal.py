"""The NumPyro density with everything Gaussian integrated out: what the collapsed density must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.linalg import solve_triangular

from bayesharm.model.design import Design
from bayesharm.reference_models.numpyro_model import traced_log_joint

GAUSSIAN = ("u", "feature_offset")  # unknowns that are jointly Gaussian given all others


class ExplicitDensities(NamedTuple):
    """Log densities at some points, (point,) arrays.

    Attributes
    ----------
    joint : array
        Of all unknowns.
    marginal : array
        Effects and feature offsets integrated out.
    """

    joint: np.ndarray
    marginal: np.ndarray


def explicit_densities(
    design: Design, features: np.ndarray | pd.DataFrame, points: Sequence[Mapping[str, np.ndarray]]
) -> ExplicitDensities:
    """Compute the log joint density of the NumPyro model at some points, and its integral over effects and offsets.

    The logarithm is quadratic in effects and offsets. Value f, gradient g and Hessian −H at one point therefore give the
    integral exactly: ``f + ½ gᵀH⁻¹g − ½ log|H| + ½ n log 2π``.

    Parameters
    ----------
    design, features, points
        As for :func:`bayesharm.reference_models.numpyro_model.log_joint`.
    """

    @jax.jit
    def densities(point: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gaussian = [name for name in GAUSSIAN if name in point]
        ends = np.cumsum([point[name].size for name in gaussian])

        def log_joint(values: jax.Array) -> jax.Array:
            parts = jnp.split(values, ends[:-1])
            moved = {name: part.reshape(point[name].shape) for name, part in zip(gaussian, parts, strict=True)}
            return traced_log_joint(design, features, {**point, **moved})

        at = jnp.concatenate([point[name].ravel() for name in gaussian])
        value, gradient = jax.value_and_grad(log_joint)(at)
        factor = jnp.linalg.cholesky(-jax.hessian(log_joint)(at))
        shift = solve_triangular(factor, gradient, lower=True)
        half_log_det = jnp.log(jnp.diagonal(factor)).sum()
        return value, value + 0.5 * shift @ shift - half_log_det + 0.5 * len(at) * jnp.log(2 * jnp.pi)

    with jax.enable_x64(True):
        found = [densities({name: jnp.asarray(value, float) for name, value in point.items()}) for point in points]
        return ExplicitDensities(*np.array(found).T)
