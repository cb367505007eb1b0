"""Screening of the features: their values, their units, and scans that are in the table twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from bayesharm.data.features import Features
from bayesharm.data.finding import Finding
from bayesharm.data.screening.coding import damaged_names
from bayesharm.data.screening.doubles import screen_doubles
from bayesharm.data.screening.harmonized import screen_harmonized
from bayesharm.data.screening.sweep import sweep_features
from bayesharm.data.screening.units import screen_units
from bayesharm.data.screening.values import screen_kinds, screen_values


def screen_features(features: Features, scans: pd.DataFrame, covariates: Sequence[str] = ()) -> Iterator[Finding]:
    """Find what is wrong or suspicious in the features; they are read once."""
    sweep = sweep_features(features, scans["scanner"])
    yield from damaged_names(features.names.tolist(), "the features")
    yield from screen_kinds(features.names)
    yield from screen_values(features, scans, sweep)
    yield from screen_doubles(scans, sweep)
    yield from screen_units(scans, sweep)
    yield from screen_harmonized(scans, sweep, covariates)
