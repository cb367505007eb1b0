"""The mean level of each feature, about which gains are divided out, and the biases of scanners there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.algorithms.devices import find_devices
from bayesharm.conditional.gaussian import condition_effects
from bayesharm.errors import InputError, shorten
from bayesharm.harmonization.adapted_effects import BLOCK, contrasts_with_fit, levels_in_fit
from bayesharm.harmonization.corrections import Effects
from bayesharm.likelihood.definition import gain_of_scanners
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics
from bayesharm.model.contrasts import add_columns, removable_together
from bayesharm.results.nodes import median_log_scales, read_statistics
from bayesharm.results.posterior import Posterior


class MeanLevel(NamedTuple):
    """Level of each feature on the average scanner, mu, and biases of scanners there.

    A scanner of gain g shows a person's level ``mu + x`` as ``mu + m + g x``. A person of a fixed level C is shown as
    ``C + b``, with ``b = m + (1 − g) (mu − C)``, so that a scan y of anybody means the level ``C + (y − C − b) / g``. C is
    the posterior mean of mu. There b and m have the same posterior mean, but b is known better: where g is not 1, an error
    of mu goes with an error of m, and cancels in b.

    Attributes
    ----------
    value : (feature,) array
        C, in the features' units.
    relative_sd : (scanner, feature) array
        Posterior sd of b over that of m.
    correlation : (level, level) array
        Posterior correlation of b of each scanner, of the slopes of biases and of populations; that of a typical feature.
    """

    value: np.ndarray
    relative_sd: np.ndarray
    correlation: np.ndarray

    def shift(self, effects: Effects) -> Effects:
        """Return effects whose biases of scanners are those at this level."""
        sd, n_scanners = effects.sd.copy(), len(self.relative_sd)
        sd[:n_scanners] *= self.relative_sd
        return effects._replace(sd=sd, correlation=self.correlation[: len(sd), : len(sd)])


def find_mean_level(posterior: Posterior, family: str, feature_indices: np.ndarray) -> MeanLevel:
    """Compute the mean level of features given all scans in a posterior.

    Scales are at their posterior medians and ratios of scanners at their means, as in :func:`bayesharm.predict`.

    Parameters
    ----------
    posterior : Posterior
    family : str
        The effects of scanners that are removed.
    feature_indices : (feature,) int array
        Indices of the features in the posterior.
    """
    statistics = read_statistics(posterior.sufficient_statistics, posterior.spec)
    level, removable = _combinations(posterior, statistics, family)
    design, ratios = statistics.design, posterior.variance_ratios(statistics.design.scanners)
    gain = gain_of_scanners(design, ratios)
    at_level = np.eye(1 + removable.shape[0])[1:]  # from mu and the effects to the effects at the level
    at_level[: len(gain), 0] = 1 - gain
    combinations = sparse.vstack([level, removable]).tocsr()

    scales = posterior.scales
    unit, log_scales = scales["feature_scale"].values, median_log_scales(scales)
    n_features, n_scanners = len(feature_indices), len(gain)
    value, relative_sd = np.empty(n_features), np.empty((n_scanners, n_features))
    with find_devices().in_use("float64"):
        problem, width = make_problem(design, statistics.likelihood), min(BLOCK, n_features)
        own = combinations[: 1 + n_scanners]
        for start in range(0, n_features, width):
            # The last block repeats its last feature: one compiled program serves all blocks.
            block = feature_indices[np.minimum(np.arange(start, start + width), n_features - 1)]
            given = condition_effects(problem, ratios, statistics.moments.take(block), log_scales[None, :, block])
            covariance = given.covariance(own)[0]
            before = np.diagonal(covariance, axis1=1, axis2=2)[:, 1:]
            to_level = at_level[:n_scanners, : 1 + n_scanners]
            after = np.diagonal(to_level @ covariance @ to_level.T, axis1=1, axis2=2)
            stop = min(start + width, n_features)
            value[start:stop] = given.mean(level)[0, : stop - start, 0]
            relative_sd[:, start:stop] = np.sqrt(after / before).T[:, : stop - start]
        problem = make_problem(design, statistics.likelihood_of_all_scans)
        no_data = Moments(*(np.zeros((len(sums), 1)) for sums in statistics.moments[:3]))
        typical = np.nanmedian(log_scales, axis=1)[:, None]
        covariance = condition_effects(problem, ratios, no_data, typical[None]).covariance(combinations)[0, 0]
    covariance = at_level @ covariance @ at_level.T
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, 1.0)  # 0 for the only population in the fit: it is the base of its own contrast
    center = scales["center"].values[feature_indices] + unit[feature_indices] * value
    return MeanLevel(center, relative_sd, covariance / sd / sd[:, None])


def check_gains(posterior: Posterior) -> None:
    """Check that the model has gains.

    Raises
    ------
    InputError
        It has none.
    """
    if posterior.spec.gain == "none":
        raise InputError(
            "The run has no gains of scanners.",
            got=f"match_gain, and a fit of {posterior.spec.name!r} without gains",
            expected="a fit with gains",
            do="fit again with gain='scanner' (--gain scanner in the shell), or leave match_gain out",
        )


def notes_on_gains(posterior: Posterior, scanners: pd.Series) -> list[str]:
    """Name the scanners of some scans whose gains are not known.

    A gain is learned in the fit, or by adapting to a new scanner; travelers who visit an old scanner later do not change it.
    It is exactly 1 where it was not learned.
    """
    gain = posterior.hyper["gain"]
    known = gain["scanner"].values[(gain != 1).any(("chain", "draw")).values]
    unknown = sorted(set(scanners.astype(str)) - set(known))
    if not unknown:
        return []
    return [
        f"Gains are not known for {shorten(unknown)}, which no traveler with several scans had visited when gains were "
        "learned: they are taken as 1, and differences between people stay as they are there."
    ]


def _combinations(
    posterior: Posterior, statistics: SufficientStatistics, family: str
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return mu and the removable effects as combinations of columns, (1, column) and (level, column).

    Biases are minus their mean over the scanners of the fit, which is part of mu.
    """
    design, spec = statistics.design, posterior.spec
    group = next(each for each in design.effects if each.name == family)
    in_fit = {family: np.full(len(group.levels), True)}
    together = [group]
    if family == spec.removed_effect:
        in_fit, together = levels_in_fit(posterior, design), removable_together(design.effects, spec)
    contrasts = [contrasts_with_fit(each, in_fit[each.name]) for each in together]
    level = np.zeros((1, len(design.columns)))
    level[0, 0] = 1.0  # the mean, the first column
    level += add_columns(group.columns, group.n_columns)[np.flatnonzero(in_fit[family])].toarray().mean(0)
    return sparse.csr_array(level), sparse.vstack(contrasts).tocsr()
