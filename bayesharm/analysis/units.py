"""Units in which effects of many features are reported together."""

from __future__ import annotations

import numpy as np

from bayesharm.data.transforms import find_transform
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


def feature_scale(posterior: Posterior) -> np.ndarray:
    """Return the divisor that brings the effects on each feature to `common_units`, (feature,)."""
    sd = posterior.scales["feature_scale"].values
    return np.ones_like(sd) if posterior.is_single_modality else sd
