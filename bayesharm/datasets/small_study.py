"""The scans table of a small study that has all kinds of people and columns, to check models on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def small_study(
    *,
    reference: str = "HC",
    protocol: Sequence[str] = (),
    crossed: Sequence[str] = (),
    numbers: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> pd.DataFrame:
    """Make the scans table of travelers on two scanners each, a cohort at three sites, and a person scanned twice on one.

    Parameters
    ----------
    reference : str
        The diagnosis of travelers and of half of the cohort.
    protocol : sequence of str
        Columns with one of two values for each scanner; each divides the scanners in another way.
    crossed : sequence of str
        Columns with one of two values for each scan, at random.
    numbers : sequence of str
        Columns of numbers at random, another one for each scan.
    weights : sequence of str
        Columns of positive numbers at random.

    Returns
    -------
    DataFrame
        With `scan_id`, `participant_id`, `scanner`, `site`, `diagnosis` and these columns.
    """
    n_scanners = max(4, 1 + len(protocol).bit_length())  # n scanners can be divided in 2^(n - 1) - 1 ways
    scanners = [f"{chr(ord('A') + k % 26)}{k // 26 or ''}" for k in range(n_scanners)]
    patients = "MDD" if reference != "MDD" else "patients"
    rows = [(f"T{i}", scanners[(i + k) % n_scanners], "home", reference) for i in range(n_scanners + 1) for k in (0, 1)]
    cohort = [(f"C{i}", scanners[i % 3], f"site{i % 3}", (reference, patients)[i // 3 % 2]) for i in range(12)]
    scans = pd.DataFrame([*rows, *cohort, cohort[0]], columns=["participant_id", "scanner", "site", "diagnosis"])
    scans.insert(0, "scan_id", [f"scan-{n}" for n in range(len(scans))])
    digit, rng = 2 ** scans.scanner.map(scanners.index).to_numpy(), np.random.default_rng(0)
    columns = {name: np.where(2 * (k + 1) & digit, "yes", "no") for k, name in enumerate(protocol)}  # never on the first
    columns |= {name: rng.choice(["yes", "no"], len(scans)) for name in dict.fromkeys(crossed)}
    columns |= {name: rng.normal(size=len(scans)).round(2) for name in dict.fromkeys(numbers)}
    return scans.assign(**columns, **{name: rng.uniform(0.5, 2, len(scans)).round(2) for name in weights})
