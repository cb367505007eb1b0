"""Measurement bias from a mixed model per feature, fitted by REML in another library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.baselines.base import Subtraction, bias_table, no_bias, read_finite, scanner_names
from bayesharm.baselines.encoding import learn_encoding
from bayesharm.baselines.external_process import ComparatorError, run_script, start_folder, write_arrays
from bayesharm.data.dataset import Dataset
from bayesharm.data.scans import find_site_travelers, find_travelers
from bayesharm.errors import InputError, listed

FEATURES_PER_JOB = 200  # fewest features worth a process, which takes seconds to start


def fit_reml(
    train: Dataset,
    covariates: Sequence[str] = (),
    *,
    library: Literal["gpboost", "statsmodels"] = "gpboost",
    jobs: int | None = None,
    timeout: float = 3600.0,
) -> Subtraction:
    """Fit a mixed model to each feature by REML, and subtract the predicted scanner effects (BLUP).

    Scanners, participants and the populations (site × diagnosis) of people who do not travel are crossed random effects,
    with separate variances in every feature. The mean and the covariates are fixed effects. The noise variance is the same
    on all scanners.

    Parameters
    ----------
    train : Dataset
        Training scans, complete.
    covariates : sequence of str
        Columns of the scans table with fixed effects.
    library : {'gpboost', 'statsmodels'}
        statsmodels serves to check gpboost: the same estimates, much more slowly, without standard deviations.
    jobs : int, optional
        Number of processes; default: one per core, but at most one per `FEATURES_PER_JOB` features.
    timeout : float
        Time limit of the fit, in seconds.

    Returns
    -------
    Subtraction
        Its `sd` is too small, because it treats the estimated variances as known.
    """
    if library not in ("gpboost", "statsmodels"):
        raise InputError(
            "Unknown library for REML.",
            got=f"library={library!r}",
            expected="'gpboost' or 'statsmodels'",
            do="omit the option",
        )
    values, scans, scanners = read_finite(train), train.scans, scanner_names(train)
    is_traveler = find_travelers(scans)
    encoding = learn_encoding(scans, covariates, np.ones((len(scans), 1)))
    notes = [*encoding.notes, *_traveler_notes(scans, is_traveler)]
    population = scans.groupby([name for name in ("site", "diagnosis") if name in scans]).ngroup()
    arrays = {
        "values": values,
        "covariates": encoding.encode(scans),
        "scanner": pd.Index(scanners).get_indexer(scans["scanner"]),
        "participant": pd.factorize(scans["participant_id"])[0],
        "population": pd.factorize(population.mask(find_site_travelers(scans)))[0],
        "jobs": np.array(jobs or max(1, min(os.cpu_count() or 1, values.shape[1] // FEATURES_PER_JOB))),
    }
    with start_folder() as name:
        folder = Path(name)
        try:
            write_arrays(folder / "train.npz", arrays)
            run_script("fit", library, folder, timeout=timeout)
        except ComparatorError as error:
            return Subtraction(no_bias(train), (*notes, f"{library} failed: {error}."))
        with np.load(folder / "fitted.npz") as file:
            effects, sd, warnings = file["bias"], file["sd"], file["warnings"]
    notes += [f"{library} warns: {text}" for text in warnings]
    if n_failed := int(np.isnan(effects).any(axis=0).sum()):
        notes.append(f"{library} failed for {n_failed} of {values.shape[1]} features: constant, or no estimate.")
    bias = bias_table(train, effects)
    bias_sd = pd.DataFrame(sd, index=bias.index, columns=bias.columns) if library == "gpboost" else None
    return Subtraction(bias, tuple(notes), bias_sd)


def _traveler_notes(scans: pd.DataFrame, is_traveler: np.ndarray) -> list[str]:
    """Note the scanners without travelers."""
    without = sorted(set(scans["scanner"]) - set(scans["scanner"][is_traveler]))
    if not without:
        return []
    return [f"{listed(without)}: no travelers, so that only variances separate measurement bias from sampling bias."]
