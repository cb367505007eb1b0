"""Predictions of scans: of new participants, and of participants with other scans in the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.algorithms.devices import find_devices
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.data.dataset import Dataset
from bayesharm.data.transforms import find_transform
from bayesharm.errors import check_type
from bayesharm.likelihood.definition import noise_variance, with_gain
from bayesharm.likelihood.merging import align_new_scans
from bayesharm.likelihood.problem import make_problem
from bayesharm.notebook import first_values, make_card, one_line
from bayesharm.results.nodes import median_log_scales, read_statistics
from bayesharm.results.posterior import Posterior
from bayesharm.results.requirements import require_gaussian

MAX_VALUES = 2**24  # numbers in the largest array, which sets the features at once


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Predictive mean and sd of each scan, in the user's units; (scan, feature) both, NaN for scans outside the model."""

    mean: np.ndarray
    sd: np.ndarray

    def __repr__(self) -> str:
        return one_line("Prediction", {"scans": self.mean.shape[0], "features": self.mean.shape[1]})

    def _repr_html_(self) -> str:
        return make_card("Predicted scans", tables=first_values("Mean ± predictive sd", self.mean, self.sd))


def predict(posterior: Posterior, scans: pd.DataFrame | Dataset) -> Prediction:
    """Predict scans from all scans of the fit; the noise is part of the sd.

    The scales are fixed at their posterior medians and the variance ratios at their means. The effects of a new scanner,
    participant or population are as uncertain as under their prior. Scans that the model does not use (of people who did not
    travel, in a model of travelers) are NaN.

    Parameters
    ----------
    posterior : Posterior
    scans : DataFrame or Dataset
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`. Repeat-scanned participants of the fit are
        recognized by their ``participant_id``.

    Raises
    ------
    InputError
        Columns of the fit are absent or have no values, or the scans have a diagnosis that the fit did not have.
    RunFolderError
        The posterior keeps no sufficient statistics.
    """
    check_type(posterior, Posterior, "predict", "load_posterior")
    require_gaussian(posterior, "bayesharm.predict needs a run with Gaussian noise: Student-t noise may have no sd.")
    scans = scans.scans if isinstance(scans, Dataset) else scans
    aligned, scales = (
        align_new_scans(read_statistics(posterior.sufficient_statistics, posterior.spec), scans),
        posterior.scales,
    )
    design, sd_of_feature = aligned.old.design, scales["feature_scale"].values
    log_scales = median_log_scales(scales)
    problem = make_problem(design, aligned.old.likelihood)
    ratios = posterior.variance_ratios(design.scanners)
    matrix = with_gain(design, ratios, aligned.matrix, aligned.classes)
    patterns = np.column_stack([matrix.toarray(), aligned.classes, aligned.weight])
    first, pattern = np.unique(patterns, axis=0, return_index=True, return_inverse=True)[1:]
    combinations, classes, pattern = matrix[first], aligned.classes[first], pattern.reshape(-1)
    relative_noise = 1 / aligned.weight[first]
    n_features = len(sd_of_feature)
    mean, sd = np.full((2, len(scans), n_features), np.nan)
    width = min(n_features, max(1, MAX_VALUES // (max(len(first), len(design.columns)) * design.n_dense)))
    for start in range(0, n_features, width):
        stop = min(start + width, n_features)
        block = np.minimum(np.arange(start, start + width), n_features - 1)  # of one width, for which one program serves
        moments, scales_of_block = aligned.old.moments.take(block), log_scales[:, block]
        with find_devices().in_use("float64"):
            given_scales = condition_effects(problem, ratios, moments, scales_of_block[None])
        center, variance = given_scales.mean(combinations)[0].T, given_scales.variance(combinations)[0].T
        noise = noise_variance(design, scales_of_block, ratios)[classes] * relative_noise[:, None]
        total = np.sqrt(variance + noise)
        unit = sd_of_feature[block]
        mean[aligned.rows, start:stop] = (center * unit + scales["center"].values[block])[pattern][:, : stop - start]
        sd[aligned.rows, start:stop] = (total * unit)[pattern][:, : stop - start]
    if transform := posterior.run.get("transform"):
        to_user = find_transform(transform)
        mean, sd = to_user.inverse_moments(to_user.inverse(mean), sd)
    return Prediction(mean, sd)
