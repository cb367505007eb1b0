"""A small simulated study that suits a model: it has all columns that the families and covariates of the model need."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.data.scans import CANONICAL
from bayesharm.datasets.small_study import small_study
from bayesharm.model.formula.text import covariate_columns
from bayesharm.model.spec import ModelSpec

N_FEATURES, SHARE_MISSING = 2, 0.2


def own_columns(spec: ModelSpec) -> list[str]:
    """Return the columns that a model uses beside those of every scans table."""
    named = [name for family in spec.families for name in family.columns]
    named += [*covariate_columns(spec.covariates, spec.formula), *(family.slope for family in spec.slopes)]
    named += [spec.noise_weight] if spec.noise_weight else []
    return [name for name in dict.fromkeys(named) if name not in CANONICAL]


def suited_scans(spec: ModelSpec) -> pd.DataFrame:
    """Make the scans table of a small study with the columns of a model."""
    grouped = [name for family in spec.families if not family.is_factor for name in family.columns]
    numbers = [*covariate_columns(spec.covariates, spec.formula), *(family.slope for family in spec.slopes)]
    return small_study(
        reference=spec.reference,
        protocol=[family.by for family in spec.factors],
        crossed=[name for name in grouped if name not in CANONICAL],
        numbers=numbers,
        weights=[spec.noise_weight] if spec.noise_weight else [],
    )


def random_features(n_scans: int, rng: np.random.Generator, has_missing: bool = False) -> np.ndarray:
    """Draw features in two units, far from 0, (scan, feature); a share of the values is NaN if there are missing ones."""
    features = 3 + rng.normal(size=(n_scans, N_FEATURES)) * np.geomspace(0.1, 0.3, N_FEATURES)
    return np.where(rng.random(features.shape) < SHARE_MISSING, np.nan, features) if has_missing else features
