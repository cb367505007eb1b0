"""Units in which effects of many features are reported together."""

from __future__ import annotations

import numpy as np

from bayesharm.results.posterior import Posterior

OWN_UNITS = "the features' own units"
SD_UNITS = "sd of each feature over the scans"


def common_units(posterior: Posterior) -> str:
    """Return the units of tables and figures: the features' own if these are comparable, else their sd over the scans."""
    return OWN_UNITS if posterior.is_single_modality else SD_UNITS


def feature_scale(posterior: Posterior) -> np.ndarray:
    """Return the divisor that brings the effects on each feature to `common_units`, (feature,)."""
    sd = posterior.scales["feature_scale"].values
    return np.ones_like(sd) if posterior.is_single_modality else sd
