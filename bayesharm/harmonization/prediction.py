"""Posterior predictive distribution of scans: of new people, and of people with other scans in the posterior."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from bayesharm.algorithms.devices import find_devices
from bayesharm.conditional.gaussian import condition_effects, variance_of_combinations
from bayesharm.data.dataset import Dataset
from bayesharm.errors import check_type
from bayesharm.likelihood.merging import align_new_scans
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design
from bayesharm.results.nodes import read_statistics
from bayesharm.results.posterior import Posterior

VALUES = 2**24  # numbers in the largest array of a block; bounds the memory to about 128 MiB each


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predictive distribution of scans, in the features' units.

    Attributes
    ----------
    mean, sd : (scan, feature) arrays
        NaN for scans that the model does not cover.
    """

    mean: np.ndarray
    sd: np.ndarray


def predict(posterior: Posterior, scans: pd.DataFrame | Dataset) -> Prediction:
    """Predict the features of scans from the posterior; the sd includes measurement noise.

    The scales are fixed at their posterior medians, and the variance ratios at their means. The effects of new scanners,
    people and populations have their prior. Scans that the model would not use (in a model of travelers, those of other
    people) are NaN.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame or Dataset
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`. People of the fit are recognized by their
        ``participant_id``.

    Raises
    ------
    InputError
        Columns of the fit are absent or have no values, or the model does not cover scans of this kind.
    RunFolderError
        The posterior has no statistics of its scans.
    """
    check_type(posterior, Posterior, "predict", "load_posterior")
    scans = scans.scans if isinstance(scans, Dataset) else scans
    joined, scales = align_new_scans(read_statistics(posterior), scans), posterior.tree["scales"].to_dataset()
    design, unit = joined.old.design, scales["unit"].values
    log_scales = np.log(scales["q50"].values / unit)
    problem = make_problem(design, joined.old.plan)
    ratios = posterior.variance_ratios(design.scanners)
    # Scans with the same columns and noise class have the same prediction, which is computed once for each scan pattern.
    first_scan, pattern = np.unique(
        np.column_stack([joined.matrix.toarray(), joined.classes]), axis=0, return_index=True, return_inverse=True
    )[1:]
    classes, pattern = joined.classes[first_scan], pattern.reshape(-1)
    n_features = len(unit)
    mean, sd = np.full((2, len(scans), n_features), np.nan)
    width = min(n_features, max(1, VALUES // (max(len(first_scan), len(design.columns)) * design.n_dense)))
    for start in range(0, n_features, width):
        # The last block repeats its last feature: one compiled program serves all blocks.
        block = np.minimum(np.arange(start, start + width), n_features - 1)
        columns = slice(start, min(start + width, n_features))
        n_columns = columns.stop - columns.start
        moments = Moments(*(sums[:, block] for sums in joined.old.moments))
        with find_devices().in_use("float64"):
            conditional = jax.tree.map(np.asarray, condition_effects(problem, ratios, moments, log_scales[None, :, block]))
        effect, effect_variance = (part[0].T for part in variance_of_combinations(conditional, joined.matrix[first_scan]))
        variance = effect_variance + _noise_variance(design, classes, np.exp(2 * log_scales[:, block]), ratios)
        mean[joined.rows, columns] = (effect * unit[block] + scales["center"].values[block])[pattern][:, :n_columns]
        sd[joined.rows, columns] = (np.sqrt(variance) * unit[block])[pattern][:, :n_columns]
    return Prediction(mean, sd)


def _noise_variance(design: Design, classes: np.ndarray, variance: np.ndarray, ratios: VarianceRatios) -> np.ndarray:
    """Return the variance of noise and, for single-scan participants, of the participant effect, (class, feature).

    Parameters
    ----------
    design : Design
    classes : (class,) int array
        Noise classes.
    variance : (scale, feature) array
        Squares of the scales.
    ratios : VarianceRatios
    """
    noise = variance[0] * ratios.noise[design.class_scanner[classes]][:, None]
    return noise + design.class_single_scan[classes][:, None] * variance[design.single_scan_scale]
