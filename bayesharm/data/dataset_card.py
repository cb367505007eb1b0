"""The card that shows a dataset in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_travelers
from bayesharm.notebook import make_card


def count_parts(scans: pd.DataFrame, n_features: int) -> dict[str, int]:
    """Count the scans, people, scanners and features of a study."""
    counts = {"scans": len(scans), "people": scans["participant_id"].nunique(), "scanners": scans["scanner"].nunique()}
    return counts | {"features": n_features}


def study_card(scans: pd.DataFrame, names: np.ndarray, facts: Mapping[str, Any], folded: Mapping[str, Iterable[str]]) -> str:
    """Return the card as HTML; no feature is read.

    Parameters
    ----------
    scans : DataFrame
        The scans table.
    names : (feature,) str array
    facts, folded : mapping
        What else the card says, as for :func:`bayesharm.notebook.make_card`.
    """
    travels = find_travelers(scans)
    people = scans.assign(travels=travels).drop_duplicates(["participant_id", "scanner"]).groupby("scanner")
    table = pd.DataFrame({"scans": scans.groupby("scanner").size(), "people": people.size()})
    table["travelers"] = people["travels"].sum()
    counts = count_parts(scans, len(names)) | {"travelers": scans.loc[travels, "participant_id"].nunique()}
    columns = {"columns": list(scans.columns), "names of features": names}
    return make_card("Dataset", {**counts, **columns, **facts}, {"Scanners": table}, folded=folded)
