"""Measurement bias by REML, one mixed model for every feature, fitted by another library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.baselines.base import Subtraction, bias_table, no_bias, read_finite, scanner_names
from bayesharm.baselines.encoding import learn_encoding
from bayesharm.baselines.external_process import ComparatorFailed, run_script, start_folder, write_arrays
from bayesharm.data.dataset import Dataset
from bayesharm.data.scans import find_travelers
from bayesharm.errors import InputError, listed

FEATURES_PER_JOB = 200  # a process takes seconds to start


def fit_reml(
    train: Dataset,
    covariates: Sequence[str] = (),
    *,
    library: Literal["gpboost", "statsmodels"] = "gpboost",
    jobs: int | None = None,
    timeout: float = 3600.0,
) -> Subtraction:
    """Predicted effects of scanners (BLUP) of a mixed model whose variances are estimated by REML, feature by feature.

    Scanners, participants and the populations (site × diagnosis) of people who do not travel are crossed random effects with
    a variance each, in every feature its own; the mean and the covariates are fixed. The noise is the same on all scanners.

    Parameters
    ----------
    train : Dataset
    covariates : sequence of str
    library : {'gpboost', 'statsmodels'}
        statsmodels gives the same estimates, much more slowly, and no standard deviations; it is there to check gpboost.
    jobs : int, optional
        Processes that share out the features; by default one for each core, and for each `FEATURES_PER_JOB` features.
    timeout : float
        Seconds that they may take.

    Returns
    -------
    Subtraction
        `sd` takes the variances for known, and so is too small.
    """
    if library not in ("gpboost", "statsmodels"):
        raise InputError(
            "There is no REML by this library.",
            got=f"library={library!r}",
            expected="'gpboost' or 'statsmodels'",
            do="leave it out",
        )
    values, scans, scanners = read_finite(train), train.scans, scanner_names(train)
    travels = find_travelers(scans)
    encoding = learn_encoding(scans, covariates, np.ones((len(scans), 1)))
    notes = [*encoding.notes, *_on_travelers(scans, travels)]
    population = scans.groupby([name for name in ("site", "diagnosis") if name in scans]).ngroup()
    arrays = {
        "values": values,
        "covariates": encoding.encode(scans),
        "scanner": pd.Index(scanners).get_indexer(scans["scanner"]),
        "participant": pd.factorize(scans["participant_id"])[0],
        "population": pd.factorize(population.mask(travels))[0],
        "jobs": np.array(jobs or max(1, min(os.cpu_count() or 1, values.shape[1] // FEATURES_PER_JOB))),
    }
    with start_folder() as name:
        folder = Path(name)
        try:
            write_arrays(folder / "train.npz", arrays)
            run_script("fit", library, folder, timeout=timeout)
        except ComparatorFailed as error:
            return Subtraction(no_bias(train), (*notes, f"{library} failed: {error}."))
        with np.load(folder / "fitted.npz") as file:
            effects, sd, warnings = file["bias"], file["sd"], file["warnings"]
    notes += [f"{library} says: {text}" for text in warnings]
    if lost := int(np.isnan(effects).any(axis=0).sum()):
        notes.append(f"{library} failed for {lost} of {values.shape[1]} features: constant, or no estimate.")
    bias = bias_table(train, effects)
    spread = pd.DataFrame(sd, index=bias.index, columns=bias.columns) if library == "gpboost" else None
    return Subtraction(bias, tuple(notes), spread)


def _on_travelers(scans: pd.DataFrame, travels: np.ndarray) -> list[str]:
    without = sorted(set(scans["scanner"]) - set(scans["scanner"][travels]))
    if not without:
        return []
    return [f"{listed(without)}: without travelers, only their variances tell measurement from sampling bias there."]
