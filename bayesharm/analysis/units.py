"""Units in which effects of many features are reported together."""

from __future__ import annotations

import numpy as np

from bayesharm.data.transforms import find_transform
from bayesharm.model.slopes import SlopeColumn
from bayesharm.results.posterior import Posterior

OWN_UNITS = "the features' own units"
SD_UNITS = "sd of each feature over the scans"


def common_units(posterior: Posterior) -> str:
    """Return the units of tables and figures: those of the fit if features are comparable, else their sd over the scans."""
    return fit_units(posterior) if posterior.is_single_modality else SD_UNITS


def fit_units(posterior: Posterior) -> str:
    """Return the units of the fit: the features' own, or those of their transform."""
    transform = posterior.run.get("transform")
    return OWN_UNITS if transform is None else find_transform(transform).unit


def slope_columns(posterior: Posterior) -> dict[str, SlopeColumn]:
    """Return the columns on which effects depend, by the name of their slopes."""
    names = {family.name: family.slope_name for family in posterior.spec.slopes}
    columns = posterior.sufficient_statistics.attrs["slopes"] if names else []
    return {names[each["family"]]: SlopeColumn(**each) for each in columns}


def describe_slopes(posterior: Posterior) -> dict[str, str]:
    """Say what the slopes are, and for which difference of their column scales of slopes are, by the name of the slopes."""
    by = {family.name: family.by for family in posterior.spec.slopes}
    said = {}
    for name, each in slope_columns(posterior).items():
        is_own = by[each.family] == "participant"
        unit = f"one typical time since the first scan ({each.column})" if is_own else f"one sd of {each.column}"
        said[name] = f"change of the {each.family} effects for {unit}"
    return said


def on_slopes(posterior: Posterior) -> str:
    """Say what the slopes in a table are; an empty text without slopes."""
    slopes = "; ".join(f"{name}: {words}" for name, words in describe_slopes(posterior).items())
    return f" {slopes}." if slopes else ""


def feature_scale(posterior: Posterior) -> np.ndarray:
    """Return the divisor that brings the effects on each feature to `common_units`, (feature,)."""
    sd = posterior.scales["feature_scale"].values
    return np.ones_like(sd) if posterior.is_single_modality else sd
