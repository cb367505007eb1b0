"""The small fixed study behind the reference posterior summaries of every model (``models/<name>/reference.json``)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.datasets.simulate import simulate_srpbs

N_FEATURES = 40
SCANNERS = ("ATT", "COI", "KUT", "SWA", "UTO")
SIZES = {  # root mean square of each family's scale, in Fisher z; sampling bias is larger than by default, to be detectable
    "measurement": 0.08,
    "participant": 0.10,
    "disorder": 0.08,
    "sampling_HC": 0.06,
    "sampling_MDD": 0.06,
    "sampling_SCZ": 0.06,
}


def reference_study(n_features: int = N_FEATURES) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a subset of the simulated SRPBS study: five scanners, two scans per visit, at most ten people per population.

    Parameters
    ----------
    n_features : int
        The first of the `N_FEATURES` features.

    Returns
    -------
    scans : DataFrame
        As from :func:`bayesharm.datasets.simulate.simulate_srpbs`.
    features : (scan, feature) float64 array
    """
    study = simulate_srpbs(N_FEATURES, seed=20190418, noise_ratio_log_sd=0.3, sizes=SIZES, dtype="float64")
    scans = study.scans[study.scans.scanner.isin(SCANNERS)]
    counts = scans.groupby("participant_id").scanner.transform("size")
    visits = scans[counts > 1].groupby(["participant_id", "scanner"], sort=False).head(2)
    people = scans[counts == 1].groupby(["site", "diagnosis"], sort=False).head(10)
    rows = np.sort(np.concatenate([visits.index, people.index]))
    return study.scans.loc[rows].reset_index(drop=True), study.features[rows, :n_features]
