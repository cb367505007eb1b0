"""Mixed models fitted by REML to one feature at a time, with gpboost, or with statsmodels as a check.

Scanners, participants and populations (site × diagnosis of people who do not travel) are crossed random effects. Every
feature has its own variances of these and of the noise. The mean and the covariates are fixed effects. `run_comparator.py`
uses this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

Arrays = Mapping[str, np.ndarray]

FLAT = 100.0  # prior variance of fixed effects, for standardized features and columns; much larger values lose precision
TOLERANCE = 1e-9  # relative change of the log-likelihood at convergence; with the default of 1e-6 scales are 2% off


def fit_gpboost(data: Arrays, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centered scanner effects and their standard deviations, (scanner, feature), in the units of the features.

    gpboost maximizes the likelihood. Fixed effects are therefore coded as random effects of a known, very large variance:
    the likelihood is then the restricted likelihood, and predictions include the uncertainty of the fixed effects.
    """
    import gpboost

    columns = _standardized(data["covariates"])
    n_scans, n_columns = columns.shape
    groups = [data["scanner"]]
    if len(set(data["participant"])) < n_scans:
        groups.append(data["participant"])
    has_populations = len(set(data["population"]) - {-1}) > 1
    if has_populations:
        groups.append(data["population"])
    n_random = len(groups)
    groups.append(np.zeros(n_scans, int))  # one group of all scans: the mean, and the slopes of covariates
    drop_intercept = [False] * n_random + [False]
    slopes, group_of_slope = columns, [n_random + 1] * n_columns
    if has_populations:
        # Travelers have no population: their indicator is 0.
        slopes, group_of_slope = (
            np.column_stack([data["population"] >= 0, columns]).astype(float),
            [n_random, *group_of_slope],
        )
        drop_intercept[n_random - 1] = True
    model = gpboost.GPModel(
        group_data=np.column_stack(groups),
        group_rand_coef_data=slopes if group_of_slope else None,
        ind_effect_group_rand_coef=group_of_slope or None,
        drop_intercept_group_rand_effect=drop_intercept,
        likelihood="gaussian",
        matrix_inversion_method="cholesky",  # the default is an approximation
        num_parallel_threads=1,
    )
    is_estimated = [True] * (1 + n_random - has_populations) + [False] + [True] * has_populations + [False] * n_columns
    start = np.where(is_estimated, 1 / (1 + n_random), FLAT)
    options = {"init_cov_pars": start, "estimate_cov_par_index": np.array(is_estimated, int), "delta_rel_conv": TOLERANCE}

    n_scanners = data["scanner"].max() + 1
    new_groups = np.full((n_scanners, n_random + 1), -1)  # the same new person, without a population, on every scanner
    new_groups[:, 0], new_groups[:, -1] = np.arange(n_scanners), 0
    center = np.eye(n_scanners) - 1 / n_scanners
    effects, sd = np.full((2, n_scanners, values.shape[1]), np.nan)
    feature_sd = values.std(axis=0)
    for k in np.flatnonzero(feature_sd):
        try:
            model.fit(y=(values[:, k] - values[:, k].mean()) / feature_sd[k], params=options)
            prediction = model.predict(
                group_data_pred=new_groups,
                group_rand_coef_data_pred=np.zeros((n_scanners, len(group_of_slope))) if group_of_slope else None,
                predict_cov_mat=True,
                predict_response=False,
            )
        except gpboost.basic.GPBoostError:
            continue
        effects[:, k] = feature_sd[k] * center @ prediction["mu"]
        sd[:, k] = feature_sd[k] * np.sqrt(np.diag(center @ prediction["cov"] @ center).clip(0))
    return effects, sd


def fit_statsmodels(data: Arrays, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same effects as `fit_gpboost`, with NaN for their standard deviations."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    n_scans, n_scanners = len(values), data["scanner"].max() + 1
    fixed = np.column_stack([np.ones(n_scans), _standardized(data["covariates"])])
    blocks = {"scanner": (data["scanner"][:, None] == np.arange(n_scanners)).astype(float)}
    for name in ("participant", "population"):
        levels = sorted(set(data[name]) - {-1})
        if 1 < len(levels) < n_scans:
            blocks[name] = (data[name][:, None] == levels).astype(float)
    names = [[[f"{name}{k}" for k in range(block.shape[1])]] for name, block in blocks.items()]
    components = VCSpec(list(blocks), names, [[block] for block in blocks.values()])
    effects = np.full((n_scanners, values.shape[1]), np.nan)
    feature_sd = values.std(axis=0)
    for k in np.flatnonzero(feature_sd):
        model = MixedLM(
            (values[:, k] - values[:, k].mean()) / feature_sd[k], fixed, groups=np.zeros(n_scans), exog_vc=components
        )
        random_effects = model.fit(reml=True).random_effects[0]
        effects[:, k] = feature_sd[k] * np.asarray(random_effects)[:n_scanners]
    return effects - effects.mean(axis=0), np.full_like(effects, np.nan)


LIBRARIES = {"gpboost": fit_gpboost, "statsmodels": fit_statsmodels}


def fit_features(library: str, data: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Fit all features in ``jobs`` processes; return effects and standard deviations as `fit_gpboost`."""
    values, jobs = data["values"], int(data["jobs"])
    rest = {name: array for name, array in data.items() if name != "values"}
    parts = np.array_split(values, jobs, axis=1)
    if jobs == 1:
        return LIBRARIES[library](rest, values)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(partial(LIBRARIES[library], rest), parts))
    effects, sd = zip(*results, strict=True)
    return np.hstack(effects), np.hstack(sd)


def _standardized(columns: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and sd 1."""
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)
