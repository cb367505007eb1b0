"""Effects of covariates, over all features and where they are largest."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.results.posterior import Posterior

WIDTH_90 = 1.645  # sds from the mean to an end of a 90% interval


def covariate_effects(posterior: Posterior) -> pd.DataFrame | None:
    """Summarize the effect of each covariate: a slope, or the difference of a category from the first one.

    Parameters
    ----------
    posterior : Posterior

    Returns
    -------
    DataFrame by covariate, or None
        `mean` and `spread`, over features, of the posterior means, in sd of a feature per unit of the covariate; `clear`,
        the number of features whose 90% interval excludes 0; the `largest` effect, the farthest from 0 in sd of a feature,
        with its uncertainty `largest_sd`, in the units of the fit, and its `feature`. None without covariates.
    """
    if "covariate" not in posterior.effect_families:
        return None
    effect, unit = posterior.effect("covariate"), posterior.scales["feature_scale"].values
    mean, sd = effect["mean"].values, effect["sd"].values
    relative = mean / unit
    largest = np.argmax(np.nan_to_num(np.abs(relative)), axis=1)
    row = np.arange(len(mean))
    return pd.DataFrame({
        "mean": np.nanmean(relative, axis=1),
        "spread": np.nanstd(relative, axis=1),
        "clear": (np.abs(mean) > WIDTH_90 * sd).sum(1),
        "largest": mean[row, largest],
        "largest_sd": sd[row, largest],
        "feature": np.array(posterior.features, dtype=object)[largest],
    }, pd.Index(effect["covariate"].values.astype(str), name="covariate"))  # fmt: skip
