"""A tenfold slowdown of import or harmonization fails; that of a fit is in test_scales.py.

All limits are ratios within one run, of processor time, which waiting for other processes does not lengthen: the shortest of
several repetitions that take turns. A limit is about eight times the ratio that two cores showed, at rest or under load.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from time import process_time

import numpy as np
import pandas as pd
import pytest
from posteriors import make_posterior

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.likelihood.moments import compute_moments
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_SCANS, N_FEATURES = 300, 4000


def least(*functions: Callable[[], object], repeats: int = 5) -> list[float]:
    """Shortest processor time of each function, in seconds; they take turns."""
    times = np.full((repeats, len(functions)), np.inf)
    for turn in times:
        for k, function in enumerate(functions):
            start = process_time()
            function()
            turn[k] = process_time() - start
    return list(times.min(0))


def import_time(modules: str) -> float:
    """Shortest of three processor times of a Python process that imports modules."""
    times = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", f"import {modules}"])
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    return min(times)


def test_import_is_much_quicker_than_that_of_numpy_and_pandas():
    """Measured: 0.02 for the package, 0.13 for the command line."""
    usual = import_time("numpy, pandas")
    assert import_time("bayesharm") < 0.16 * usual
    assert import_time("bayesharm.cli.app") < usual


def make_study(n_features: int) -> tuple[Dataset, np.ndarray]:
    rng, scans = np.random.default_rng(0), pd.DataFrame({"scan_id": [f"s{k}" for k in range(N_SCANS)]})
    scans["participant_id"] = [f"p{k // 3}" for k in range(N_SCANS)]
    scans["scanner"] = ["ABC"[k % 3] for k in range(N_SCANS)]
    values = rng.normal(size=(N_SCANS, n_features))
    table = pd.DataFrame(values, columns=[f"f{k}" for k in range(n_features)])
    return load_dataset(scans, table.assign(scan_id=scans.scan_id), check="apply"), values


@pytest.fixture(scope="module")
def harmonizing() -> dict[int, tuple[Callable[[], object], np.ndarray]]:
    """Harmonization of a number of features, and their values."""

    def prepare(n_features: int):
        dataset, values = make_study(n_features)
        posterior = make_posterior(features=tuple(map(str, dataset.features.names)))

        def run() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                harmonize(posterior, dataset)

        return run, values

    return {n: prepare(n) for n in (N_FEATURES, 2 * N_FEATURES)}


def test_harmonizing_takes_some_passes_over_the_array(harmonizing):
    """Against one pass that subtracts a bias and writes an sd; measured: 6 to 9 times as long, checks included."""
    (run, values), scanner = harmonizing[2 * N_FEATURES], np.arange(N_SCANS) % 3
    bias, sd = np.random.default_rng(1).normal(size=(2, 3, values.shape[1]))

    def one_pass() -> tuple[np.ndarray, np.ndarray]:
        return values - bias[scanner], np.where(np.isnan(values), np.nan, sd[scanner])

    ours, plain = least(run, one_pass)
    assert ours < 60 * plain


def test_harmonizing_twice_the_features_takes_at_most_three_times_as_long(harmonizing):
    small, large = least(*(run for run, _ in harmonizing.values()))
    assert large < 3 * small


def test_moments_take_some_products_and_grow_with_the_features():
    """Against XᵀY with a dense X, and against half the features."""
    dataset, values = make_study(2 * N_FEATURES)
    design = build_design(dataset.scans, load_model("traveling"))
    x = design.matrix.toarray()
    half, whole, product = least(
        lambda: compute_moments(design, values[:, :N_FEATURES]),
        lambda: compute_moments(design, values),
        lambda: x.T @ values,
    )
    assert whole < 3 * half
    assert whole < 10 * product, whole / product
