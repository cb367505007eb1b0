"""Posterior of the sizes of the model's families: averages over features, comparisons and rankings.

A fit of few features samples them together with the hyperparameters, and keeps draws of the sizes of all features. A mean
over features has draws of its own then.

With more features, the variance of a mean has two parts. One is that of features given the hyperparameters: that of
independent features, times their number over their effective number, since the errors of correlated features do not average
out. The other is that of eta, the typical log-scale of a family, which all features share. The derivative of a feature's
posterior mean with respect to eta is its posterior covariance with the log-scale over the prior variance of the log-scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from bayesharm.analysis.units import feature_scale
from bayesharm.inference.error_patterns import variance_inflation
from bayesharm.inference.predictive_prior import predictive_moments
from bayesharm.results.posterior import Posterior

Z90 = 1.6448536269514722  # half the width of a 90% interval, in standard deviations of a normal distribution
STATISTICS = ("mean", "sd", "q05", "q50", "q95")
SIZES = ("tau", "finite_sd", "contribution")
N_RANKING_DRAWS = 20_000  # draws for the probability of each rank: a standard error of at most 0.4%


class JointErrors:
    """Errors of means over features, from draws of all features together.

    Parameters
    ----------
    draws : dict of (draw, family, feature) arrays
        Of each size; entries of the same draw belong together.
    """

    def __init__(self, draws: Mapping[str, np.ndarray]) -> None:
        self.draws = draws

    def draw_means(self, size: str, member: np.ndarray, inflation: float, power: int = 1) -> np.ndarray:
        """Return draws of the mean over features of a size, (draw, family).

        Parameters
        ----------
        size : str
        member : (feature,) bool array
        inflation : float
            How many times the variance of a sum over features is that of independent ones.
        power : int
            2 for the mean of squares.
        """
        sizes = self.draws[size][..., member] ** power
        means, n = sizes.mean(2), sizes.shape[2]
        return stretch_means(means, sizes.var(0).mean(1), n, inflation)

    def interval(self, size: str, mean: np.ndarray, member: np.ndarray, inflation: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the 90% interval of the mean over features of a size, (family,) each."""
        low, high = np.quantile(self.draw_means(size, member, inflation), [0.05, 0.95], axis=0)
        return low, high

    def compare(self, mean: np.ndarray, inflation: float) -> np.ndarray:
        """Compute the probability that the mean `finite_sd` of one family exceeds that of another, (family, family)."""
        draws = self.draw_means("finite_sd", np.ones(mean.shape[1], bool), inflation)
        larger = (draws[:, :, None] > draws[:, None]).sum(0) + 0.5
        is_known = np.isfinite(draws[0])
        is_known = is_known[:, None] & is_known & ~np.eye(len(is_known), dtype=bool)
        return np.where(is_known, larger / (len(draws) + 1), np.nan)

    def draw_mean_squares(self, mean: np.ndarray, inflation: float, rows: np.ndarray) -> np.ndarray:
        """Draw the mean square over features of `finite_sd`, (draw, chosen family)."""
        return self.draw_means("finite_sd", np.ones(mean.shape[1], bool), inflation, power=2)[:, rows]


def stretch_means(means: np.ndarray, single: np.ndarray, n_features: int, inflation: float) -> np.ndarray:
    """Widen draws of means over features whose errors are correlated.

    The draws contain the errors that all features share through the hyperparameters. Where errors of features are
    correlated beyond that, the part of the variance that features do not share is multiplied by `inflation`: the logarithms
    of the draws are stretched, and the mean over draws stays.

    Parameters
    ----------
    means : (draw, quantity) array
        Positive.
    single : (quantity,) array
        Variance of the quantity in a single feature, mean over features.
    n_features : int
    inflation : float
        How many times the variance of a sum over features is that of independent ones.
    """
    if inflation == 1 or n_features == 1:
        return means
    of_mean = means.var(0)
    shared = np.clip((n_features * of_mean - single) / (n_features - 1), 0, of_mean)
    stretch = np.sqrt(1 + (inflation - 1) * (of_mean - shared) / of_mean)
    middle = means.mean(0)
    stretched = (means / middle) ** stretch
    return middle * stretched / stretched.mean(0)


@dataclass(frozen=True, eq=False)
class PropagatedErrors:
    """Errors of means over many features, from the covariances of each feature and of the hyperparameters.

    Attributes
    ----------
    sd : dict of (family, feature) arrays
        Posterior sd of each size.
    shared_error : dict of (family, feature) arrays
        For each size its change per posterior sd of the hyperparameters.
    covariance : (family, family, feature) array
        Posterior covariance of `finite_sd` between families.
    eta_correlation : (family, family) array
        Posterior correlation of eta between families.
    """

    sd: Mapping[str, np.ndarray]
    shared_error: Mapping[str, np.ndarray]
    covariance: np.ndarray
    eta_correlation: np.ndarray

    def interval(self, size: str, mean: np.ndarray, member: np.ndarray, inflation: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the 90% interval of the mean over features of a size, (family,) each."""
        n = np.maximum(np.isfinite(mean[:, member]).sum(1), 1)
        shared, sd = (np.nansum(part[size][:, member] ** power, 1) for part, power in ((self.shared_error, 1), (self.sd, 2)))
        with np.errstate(invalid="ignore"):
            return lognormal_interval(np.nansum(mean[:, member], 1) / n, np.sqrt(inflation * sd + shared**2) / n)

    def compare(self, mean: np.ndarray, inflation: float) -> np.ndarray:
        """Compute the probability that the mean `finite_sd` of one family exceeds that of another, (family, family)."""
        shared = np.nansum(self.shared_error["finite_sd"], axis=1)
        covariance = inflation * np.nansum(self.covariance, axis=2)
        covariance += shared[:, None] * self.eta_correlation * shared
        variance = np.diag(covariance)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(variance[:, None] + variance - 2 * covariance)
            return ndtr(np.nansum(mean[:, None] - mean, axis=2) / error)

    def draw_mean_squares(self, mean: np.ndarray, inflation: float, rows: np.ndarray) -> np.ndarray:
        """Draw the mean square over features of `finite_sd`, (draw, chosen family).

        Means of squares over many features are jointly Gaussian; the moments of a square are those where `finite_sd` is
        Gaussian.
        """
        within, mean = self.covariance[np.ix_(rows, rows)], mean[rows]
        square = (mean**2 + np.einsum("iif->if", within)).mean(1)
        shared = (2 * mean * self.shared_error["finite_sd"][rows]).mean(1)
        covariance = inflation * (4 * mean[:, None] * mean * within + 2 * within**2).sum(2) / mean.shape[1] ** 2
        covariance += shared[:, None] * self.eta_correlation[np.ix_(rows, rows)] * shared
        return np.random.default_rng(0).multivariate_normal(square, covariance, N_RANKING_DRAWS, method="eigh")


@dataclass(frozen=True, eq=False)
class FamilySizes:
    """Posterior of `tau`, `finite_sd` and `contribution` of each family and feature, in the units of tables.

    Attributes
    ----------
    families, features : list of str
    statistics : dict of (statistic, family, feature) arrays
        For each size its mean, sd, and quantiles 5%, 50% and 95%.
    errors : JointErrors or PropagatedErrors
        Of means over features.
    error_pattern : (entry, feature) array
        Error patterns of the features.
    residual_dof : int
        Degrees of freedom of the residuals that they are made of.
    """

    families: list[str]
    features: list[str]
    statistics: Mapping[str, np.ndarray]
    errors: JointErrors | PropagatedErrors
    error_pattern: np.ndarray
    residual_dof: int

    @classmethod
    def from_posterior(cls, posterior: Posterior) -> FamilySizes:
        """Read the sizes from the groups ``/scales``, ``/finite_population``, ``/size_draws`` and ``/hyper`` of a run."""
        scales, sources = posterior.scales, posterior.finite_population
        divisor = feature_scale(posterior)
        statistics = {
            "tau": np.stack([scales[name].sel(family=sources["family"]).values for name in STATISTICS]) / divisor,
            "finite_sd": sources["finite_sd"].values / divisor,
            "contribution": sources["contribution"].values,
        }
        errors: JointErrors | PropagatedErrors
        if (joint := posterior.size_draws) is not None:
            errors = JointErrors({name: joint[name].values / (1 if name == "contribution" else divisor) for name in SIZES})
        else:
            errors = PropagatedErrors(
                {name: values[1] for name, values in statistics.items()},
                _shared_errors(posterior, divisor),
                sources["finite_covariance"].values / divisor**2,
                _eta_correlation(posterior),
            )
        return cls(
            [str(name) for name in sources["family"].values],
            posterior.features,
            statistics,
            errors,
            posterior.error_pattern,
            int(posterior.tree["error_patterns"].to_dataset()["residual_dof"].values[0]),
        )

    def _inflation(self, member: np.ndarray | slice = slice(None)) -> float:
        return variance_inflation(self.error_pattern[:, member], self.residual_dof)

    def by_feature(self) -> pd.DataFrame:
        """Tabulate the mean and the 90% interval of each size and family, a row for each feature."""
        columns: dict[str, np.ndarray] = {}
        for size, values in self.statistics.items():
            for k, family in enumerate(self.families):
                mean, _, low, _, high = values[:, k]
                columns |= {f"{size}_{family}": mean, f"{size}_{family}_q05": low, f"{size}_{family}_q95": high}
        return pd.DataFrame(columns, index=pd.Index(self.features, name="feature"))

    def average(
        self, names: list[tuple[str, ...]] | None = None, member: np.ndarray | None = None, levels: tuple[str, ...] = ()
    ) -> pd.DataFrame:
        """Average the sizes over groups of features; by default over all.

        Parameters
        ----------
        names : list of tuple of str
            Names of each group, one for each of `levels`.
        member : (group, feature) array of 0 and 1
        levels : tuple of str
            Names of the index levels before `family`.

        Returns
        -------
        DataFrame
            A row for each group and family.
        """
        groups = [group > 0 for group in (np.ones((1, len(self.features))) if member is None else member)]
        inflation = [self._inflation(group) for group in groups]
        keys = [(*name, family) for name in names or [()] for family in self.families]
        index = pd.MultiIndex.from_tuples(keys, names=[*levels, "family"])
        columns: dict[str, np.ndarray] = {}
        for size, (mean, *_) in self.statistics.items():
            limits = [self.errors.interval(size, mean, *of_group) for of_group in zip(groups, inflation, strict=True)]
            columns[size] = np.concatenate([_mean_of_known(mean[:, group]) for group in groups])
            columns[f"{size}_q05"], columns[f"{size}_q95"] = (np.concatenate(part) for part in zip(*limits, strict=True))
        return pd.DataFrame(columns, index=index if levels else index.get_level_values("family"))

    def compare(self) -> pd.DataFrame:
        """Compute the probability that the mean `finite_sd` of the row's family is larger than that of the column's."""
        probability = self.errors.compare(self.statistics["finite_sd"][0], self._inflation())
        families = pd.Index(self.families, name="family")
        return pd.DataFrame(probability, index=families, columns=families.rename("other"))

    def rank(self, components: tuple[str, ...]) -> pd.DataFrame | None:
        """Rank the components of measurement bias by root mean square over features; None for fewer than two.

        The mean of `finite_sd` depends on the number of levels (two have 0.80 tau, eight 0.96 tau), that of its square does
        not.
        """
        families = pd.Index(self.families, name="family")
        rows = np.flatnonzero(families.isin(components))
        if len(rows) < 2:
            return None
        draws = self.errors.draw_mean_squares(self.statistics["finite_sd"][0], self._inflation(), rows)
        square = draws.mean(0)
        rank = np.argsort(np.argsort(-draws, axis=1), axis=1)
        table = pd.DataFrame({"rms": np.sqrt(square)}, index=families[rows])
        table["rms_q05"], table["rms_q95"] = np.sqrt(lognormal_interval(square, draws.std(0)))
        for k in range(len(rows)):
            table[f"rank_{k + 1}"] = (rank == k).mean(0)
        return table.sort_values("rms", ascending=False)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over features, (family, feature) -> (family,), without those that are NaN."""
    is_known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_known, values, 0).sum(1) / is_known.sum(1)


def lognormal_interval(mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 90% interval of a log-normal distribution: a positive number, nearly Gaussian where its sd is small."""
    with np.errstate(invalid="ignore", divide="ignore"):
        log_sd = np.sqrt(np.log1p((sd / mean) ** 2))
        log_median = np.log(mean) - log_sd**2 / 2
    return np.exp(log_median - Z90 * log_sd), np.exp(log_median + Z90 * log_sd)


def _shared_errors(posterior: Posterior, divisor: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the change of each size per posterior sd of the hyperparameters, (family, feature)."""
    hyper, sources = posterior.hyper, posterior.finite_population
    eta, omega = _eta_and_omega(posterior)
    variance = predictive_moments(eta, omega, posterior.spec.feature_offset_sd).sd ** 2
    uncertain = np.sqrt(np.maximum(variance - (omega**2).mean(0), 0)) / variance
    scaled = sources["covariance_with_log_scale"].values * uncertain[:, None]
    # The first family, noise, is that of a scanner with variance ratio 1. The scale of all scans' noise is uncertain by the
    # ratios too, weighted by the scanners' numbers of scans.
    n_scans = posterior.design["n_scans"].values
    level = np.log(hyper["noise_ratio"].values) @ (n_scans / n_scans.sum())
    scaled[:2, 0] = np.hypot(scaled[:2, 0], 0.5 * level.std() * posterior.scales["mean"].values[0])
    return {name: part / (1 if name == "contribution" else divisor) for name, part in zip(SIZES, scaled, strict=True)}


def _eta_and_omega(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Draws of eta and omega of the families with sizes, (draw, family) both."""
    hyper = posterior.hyper.sel(family=posterior.finite_population["family"].values)
    eta, omega = (hyper[name].values.reshape(-1, hyper.sizes["family"]) for name in ("eta", "omega"))
    return eta, omega


def _eta_correlation(posterior: Posterior) -> np.ndarray:
    """Compute the posterior correlation of eta between families, without the shift that the feature offset takes up."""
    eta, omega = _eta_and_omega(posterior)
    covariance = np.cov(eta.T)
    remaining = predictive_moments(eta, omega, posterior.spec.feature_offset_sd).sd ** 2 - (omega**2).mean(0)
    covariance -= np.mean(np.diag(covariance) - remaining)
    sd = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    return covariance / sd[:, None] / sd


def level_scale_errors(posterior: Posterior, effect: str) -> np.ndarray:
    """Compute the posterior sd of the log-scale from which each level of an effect is drawn, (level,).

    The scale of a scanner's effect is that of all components together, times the root of its bias variance ratio kappa.
    """
    hyper, levels, spec = posterior.hyper, posterior.effect(effect), posterior.spec
    n_levels = levels.sizes[levels["mean"].dims[0]]
    eta, omega = (hyper[name].values.reshape(-1, hyper.sizes["family"]) for name in ("eta", "omega"))
    common = np.mean(
        eta.var(0, ddof=1) + (omega**2).mean(0) - predictive_moments(eta, omega, spec.feature_offset_sd).sd ** 2
    )
    terms = spec.components if effect == spec.removed_effect else (effect,)
    groups = levels["diagnosis"].values.astype(str) if "diagnosis" in levels.coords else np.full(n_levels, "")
    errors = np.zeros(n_levels)
    for group in np.unique(groups):
        chosen = np.isin(hyper["term"].values.astype(str), terms) & np.isin(hyper["group"].values.astype(str), [group, ""])
        total = 0.5 * np.log(np.exp(2 * eta[:, chosen]).sum(1)) if chosen.any() else np.zeros(2)
        errors[groups == group] = np.sqrt(max(total.var(ddof=1) - common, 0.0))
    if effect == spec.removed_effect:
        bias_ratio = np.log(hyper["bias_ratio"].values.reshape(-1, n_levels))
        errors = np.hypot(errors, 0.5 * bias_ratio.std(0))
    return errors
