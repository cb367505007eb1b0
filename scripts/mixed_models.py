"""REML of one feature at a time by gpboost, and by statsmodels to check it; `run_comparator.py` calls it.

Every feature has its own variances of scanners, participants and populations (site × diagnosis, of people who do not
travel), all crossed, and of the noise; the mean and the covariates are fixed effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

Arrays = Mapping[str, np.ndarray]

FLAT = 100.0  # variance of fixed effects, in variances of the feature and of the column; with much more, digits are lost
TOLERANCE = 1e-9  # relative change of the log-likelihood; the default of 1e-6 stops while scales are still 2% off


def fit_gpboost(data: Arrays, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects of scanners and their standard deviations, (scanner, feature), in units of the features.

    gpboost maximizes the likelihood. With fixed effects made random effects of a known, very large variance this is the
    restricted likelihood, and predictions know how uncertain the fixed effects are.
    """
    import gpboost

    columns = _standardized(data["covariates"])
    n_scans, n_columns = columns.shape
    groups = [data["scanner"]]
    if len(set(data["participant"])) < n_scans:
        groups.append(data["participant"])
    populations = len(set(data["population"]) - {-1}) > 1
    if populations:
        groups.append(data["population"])
    n_random = len(groups)
    groups.append(np.zeros(n_scans, int))  # everybody: the mean, and the slopes of covariates
    empty = [False] * n_random + [False]
    slopes, owner = columns, [n_random + 1] * n_columns
    if populations:
        # Travelers have no population: their column is 0.
        slopes, owner = np.column_stack([data["population"] >= 0, columns]).astype(float), [n_random, *owner]
        empty[n_random - 1] = True
    model = gpboost.GPModel(
        group_data=np.column_stack(groups),
        group_rand_coef_data=slopes if owner else None,
        ind_effect_group_rand_coef=owner or None,
        drop_intercept_group_rand_effect=empty,
        likelihood="gaussian",
        matrix_inversion_method="cholesky",  # its default is an approximation
        num_parallel_threads=1,
    )
    learned = [True] * (1 + n_random - populations) + [False] + [True] * populations + [False] * n_columns
    start = np.where(learned, 1 / (1 + n_random), FLAT)
    options = {"init_cov_pars": start, "estimate_cov_par_index": np.array(learned, int), "delta_rel_conv": TOLERANCE}

    n_scanners = data["scanner"].max() + 1
    new = np.full((n_scanners, n_random + 1), -1)  # on every scanner the same new person of no population
    new[:, 0], new[:, -1] = np.arange(n_scanners), 0
    center = np.eye(n_scanners) - 1 / n_scanners
    effects, sd = np.full((2, n_scanners, values.shape[1]), np.nan)
    unit = values.std(axis=0)
    for k in np.flatnonzero(unit):
        try:
            model.fit(y=(values[:, k] - values[:, k].mean()) / unit[k], params=options)
            found = model.predict(
                group_data_pred=new,
                group_rand_coef_data_pred=np.zeros((n_scanners, len(owner))) if owner else None,
                predict_cov_mat=True,
                predict_response=False,
            )
        except gpboost.basic.GPBoostError:
            continue
        effects[:, k] = unit[k] * center @ found["mu"]
        sd[:, k] = unit[k] * np.sqrt(np.diag(center @ found["cov"] @ center).clip(0))
    return effects, sd


def fit_statsmodels(data: Arrays, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same effects; no standard deviations."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    n_scans, n_scanners = len(values), data["scanner"].max() + 1
    fixed = np.column_stack([np.ones(n_scans), _standardized(data["covariates"])])
    blocks = {"scanner": (data["scanner"][:, None] == np.arange(n_scanners)).astype(float)}
    for name in ("participant", "population"):
        levels = sorted(set(data[name]) - {-1})
        if 1 < len(levels) < n_scans:
            blocks[name] = (data[name][:, None] == levels).astype(float)
    names = [[[f"{name}{k}" for k in range(block.shape[1])]] for name, block in blocks.items()]
    parts = VCSpec(list(blocks), names, [[block] for block in blocks.values()])
    effects = np.full((n_scanners, values.shape[1]), np.nan)
    unit = values.std(axis=0)
    for k in np.flatnonzero(unit):
        model = MixedLM((values[:, k] - values[:, k].mean()) / unit[k], fixed, groups=np.zeros(n_scans), exog_vc=parts)
        found = model.fit(reml=True).random_effects[0]
        effects[:, k] = unit[k] * np.asarray(found)[:n_scanners]
    return effects - effects.mean(axis=0), np.full_like(effects, np.nan)


LIBRARIES = {"gpboost": fit_gpboost, "statsmodels": fit_statsmodels}


def fit_features(library: str, data: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The same with the features shared out over ``jobs`` processes."""
    values, jobs = data["values"], int(data["jobs"])
    rest = {name: array for name, array in data.items() if name != "values"}
    parts = np.array_split(values, jobs, axis=1)
    if jobs == 1:
        return LIBRARIES[library](rest, values)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(LIBRARIES[library], rest), parts))
    effects, sd = zip(*found, strict=True)
    return np.hstack(effects), np.hstack(sd)


def _standardized(columns: np.ndarray) -> np.ndarray:
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)
