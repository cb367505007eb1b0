"""Screening of the features: their values, their units, and scans that are in the table twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayesharm.data.features import Features
from bayesharm.data.finding import Finding
from bayesharm.data.screening.coding import damaged_names
from bayesharm.data.screening.doubles import screen_doubles
from bayesharm.data.screening.harmonized import screen_harmonized
from bayesharm.data.screening.sweep import sweep_features
from bayesharm.data.screening.units import screen_units
from bayesharm.data.screening.values import screen_kinds, screen_values


def screen_features(features: Features, scans: pd.DataFrame, covariates: Sequence[str] = ()) -> list[Finding]:
    """Find what is wrong or suspicious in the features; they are read once."""
    with np.errstate(all="ignore"):  # the fit refuses features that overflow or vanish
        sweep = sweep_features(features, scans["scanner"])
        found = [
            *damaged_names(features.names.tolist(), "the features"),
            *screen_kinds(features.names),
            *screen_values(features, scans, sweep),
            *screen_doubles(scans, sweep),
            *screen_units(scans, sweep, may_be_r=features.transform is None),
            *screen_harmonized(scans, sweep, covariates),
        ]
    return found
