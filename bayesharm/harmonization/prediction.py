"""What a posterior expects of scans: of new people, and of people whose other scans it knows."""

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
from bayesharm.results.nodes import read_statistics
from bayesharm.results.posterior import Posterior

VALUES = 2**24  # numbers held at once


@dataclass(frozen=True, eq=False)
class Prediction:
    """Mean and sd of what will be measured, in the features' units; (scan, feature) both, NaN for scans of no use."""

    mean: np.ndarray
    sd: np.ndarray


def predict(posterior: Posterior, scans: pd.DataFrame | Dataset) -> Prediction:
    """What is expected of scans, given all that was fitted; noise is part of the sd.

    The scales are taken at their posterior medians, the noise ratios at their means. What a new scanner, person or
    population does is unknown within its prior. Scans that the model would not use (of people who did not travel, for a
    model of travelers) are NaN.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame or Dataset
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`. Known people go by their ``participant_id``.

    Raises
    ------
    InputError
        Columns that the fit used are absent or have no values, or the scans are of a kind that the model knows nothing
        about.
    RunFolderError
        The posterior keeps no statistics.
    """
    check_type(posterior, Posterior, "predict", "load_posterior")
    scans = scans.scans if isinstance(scans, Dataset) else scans
    joined, scales = align_new_scans(read_statistics(posterior), scans), posterior.tree["scales"].to_dataset()
    design, unit = joined.old.design, scales["unit"].values
    log_scales = np.log(scales["q50"].values / unit)
    problem = make_problem(design, joined.old.plan)
    log_ratio = posterior.log_ratios(design.scanners)
    rows, kind = np.unique(
        np.column_stack([joined.matrix.toarray(), joined.classes]), axis=0, return_index=True, return_inverse=True
    )[1:]
    classes, kind = joined.classes[rows], kind.reshape(-1)
    n_features = len(unit)
    mean, sd = np.full((2, len(scans), n_features), np.nan)
    width = min(n_features, max(1, VALUES // (max(len(rows), len(design.columns)) * design.n_dense)))
    for start in range(0, n_features, width):
        block = np.minimum(np.arange(start, start + width), n_features - 1)
        own = slice(start, min(start + width, n_features))
        moments = Moments(*(part[:, block] for part in joined.old.moments))
        with find_devices().in_use("float64"):
            known = jax.tree.map(np.asarray, condition_effects(problem, log_ratio, moments, log_scales[None, :, block]))
        center, variance = (part[0].T for part in variance_of_combinations(known, joined.matrix[rows]))
        square = np.exp(2 * log_scales[:, block])
        noise = square[0] * np.exp(log_ratio[design.class_scanner[classes]])[:, None]
        noise = noise + design.class_single_scan[classes][:, None] * square[design.single_scan_scale]
        n_own = own.stop - own.start
        mean[joined.rows, own] = (center * unit[block] + scales["center"].values[block])[kind][:, :n_own]
        sd[joined.rows, own] = (np.sqrt(variance + noise) * unit[block])[kind][:, :n_own]
    return Prediction(mean, sd)
