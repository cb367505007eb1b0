"""Longitudinal ComBat: location and scale of scanners around the trajectories of participants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.baselines.base import (
    Applied,
    Subtraction,
    bias_table,
    check_features,
    correctable_scanners,
    no_bias,
    read_all,
    read_finite,
    scanners_with_variance,
)
from bayesharm.baselines.encoding import Encoding, indicators, learn_encoding
from bayesharm.baselines.mixed_model import MixedModel, fit_mixed_model, predict_random_effects
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, shorten

TOLERANCE = 1e-8  # relative change of the scales at which empirical Bayes stops
MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Columns of the random effects of participants: a constant, and the column of the slope, standardized.

    Attributes
    ----------
    slope : str or None
        Column of the scans table; None for a constant alone.
    center, unit : float
        Mean and sd of this column in the training scans.
    """

    slope: str | None = None
    center: float = 0.0
    unit: float = 1.0

    def columns(self, scans: pd.DataFrame) -> np.ndarray:
        """Return the (scan, 1 or 2) columns; NaN where the slope's column has no number."""
        if self.slope is None:
            return np.ones((len(scans), 1))
        raw = scans[self.slope] if self.slope in scans else pd.Series(np.nan, scans.index)
        time = pd.to_numeric(raw, errors="coerce").to_numpy(float)
        return np.column_stack([np.ones(len(scans)), (time - self.center) / self.unit])


@dataclass(frozen=True, eq=False)
class FittedLongCombat:
    """A fitted longitudinal ComBat (see `bayesharm.baselines.Fitted`).

    Attributes
    ----------
    bias : (scanner, feature) DataFrame
        `additive`, minus its mean over scanners.
    notes : tuple of str
        As in `Fitted`.
    additive : (scanner, feature) DataFrame
        Empirical Bayes estimate of the additive effect, gamma* times the noise sd, in the units of the features.
    scale : (scanner, feature) DataFrame
        Empirical Bayes estimate of the multiplicative effect, delta*: noise sd of a scanner over that of all.
    model : MixedModel
        Mixed model of the training scans; its first coefficients are the means of the scanners.
    encoding : Encoding
        Covariates as columns.
    trajectory : Trajectory
        Columns of the random effects.
    random_effects : (participant, feature, 1 or 2) array
        Predicted random effects (BLUP) of the participants of the fit.
    participants : Index
        Their identifiers.
    weights : (scanner,) array
        Share of the scans of each scanner: the weighted sum of the scanner effects of the mixed model is 0.
    """

    bias: pd.DataFrame
    notes: tuple[str, ...]
    additive: pd.DataFrame
    scale: pd.DataFrame
    model: MixedModel
    encoding: Encoding
    trajectory: Trajectory
    random_effects: np.ndarray
    participants: pd.Index
    weights: np.ndarray

    @property
    def scanners(self) -> tuple[str, ...]:
        """Scanners that can be corrected."""
        return correctable_scanners(self.bias)

    def apply(self, dataset: Dataset) -> Applied:
        """Correct scans: remove the additive effect, and rescale what is left around the person's trajectory.

        The trajectory of a participant of the fit is that of the fit. The trajectory of another person is predicted from
        this person's scans in `dataset`.
        """
        check_features(dataset, self.bias.columns)
        values, scans = read_all(dataset), dataset.scans
        corrected, factor, notes = np.full_like(values, np.nan), np.full_like(values, np.nan), []
        covariates, random = self.encoding.encode(scans), self.trajectory.columns(scans)
        is_known = scans["scanner"].isin(self.scanners).to_numpy()
        is_complete = np.isfinite(np.column_stack([covariates, random])).all(axis=1)
        if (incomplete := is_known & ~is_complete).any():
            notes.append(
                f"{incomplete.sum()} scans lack a covariate, or have a category that is absent from the training scans."
            )
        rows = np.flatnonzero(is_known & is_complete)
        if len(rows):
            codes = self.additive.index.get_indexer(scans["scanner"].iloc[rows])
            means = self.model.coefficients[: len(self.weights)]
            residuals = values[rows] - means[codes] - covariates[rows] @ self.model.coefficients[len(self.weights) :]
            noise = residuals - self._trajectories(residuals, random[rows], scans["participant_id"].iloc[rows])
            factor[rows] = 1 / self.scale.to_numpy()[codes]
            effects = means - self.weights @ means
            excess = noise + (effects - self.additive.to_numpy())[codes]
            corrected[rows] = values[rows] - noise - effects[codes] + factor[rows] * excess
        return Applied(corrected, factor=factor, notes=tuple(notes))

    def _trajectories(self, residuals: np.ndarray, random: np.ndarray, people: pd.Series) -> np.ndarray:
        """Return each scan's deviation of the person's trajectory from the fixed effects."""
        groups, names = pd.factorize(people)
        effects = predict_random_effects(residuals, random, groups, self.model.factor)
        known = self.participants.get_indexer(names)
        effects[known >= 0] = self.random_effects[known[known >= 0]]
        return np.einsum("nq,nfq->nf", random, effects[groups])


def fit_long_combat(
    train: Dataset,
    covariates: Sequence[str] = (),
    *,
    slope: str | None = None,
    sigma: Literal["REML", "MSR"] = "REML",
) -> FittedLongCombat | Subtraction:
    """Fit longitudinal ComBat: scanners shift and rescale the scans of people with a trajectory of their own [1]_.

    In each feature a mixed model is fitted by REML: fixed effects of covariates and scanners, a random intercept of each
    participant and, with `slope`, a random slope that is correlated with it. The scanner effects get the constraint that
    their sum, weighted by numbers of scans, is 0. Data minus covariates and predicted trajectories, over sigma, are then
    the standardized data of ComBat, with its empirical Bayes estimates over features: Gaussian for the additive effect
    gamma, inverse gamma for the variance delta².

    Details follow the authors' R package longCombat, of which this is an independent implementation: trajectories are the
    best linear predictions (BLUP); they are subtracted before standardization; the prior of each scanner has the moments of
    its gamma and delta² over features. Differences: the iteration runs until convergence, not 30 times; people who were not
    in the fit can be corrected; covariates that are collinear with scanners are left out, while R leaves out scanners.

    Parameters
    ----------
    train : Dataset
        Training scans, complete. Scanners with a single scan are not used: their variance cannot be estimated.
    covariates : sequence of str
        Columns of the scans table, time among them, whose effects are preserved; ``a:b`` for interactions.
    slope : str, optional
        Numeric column, such as the years since the first scan, in which each participant has a slope. It is a covariate
        too. Default: random intercepts only.
    sigma : {'REML', 'MSR'}
        Estimate of the noise sd: that of the mixed model, or the sd of its residuals (`method` of the R package).

    Returns
    -------
    FittedLongCombat or Subtraction
        If the model cannot be fitted to these scans, `bias` is NaN and `notes` says why.

    Raises
    ------
    InputError
        An option or a covariate cannot be used.

    References
    ----------
    .. [1] Beer et al. (2020). Longitudinal ComBat: a method for harmonizing longitudinal multi-scanner imaging data.
       *NeuroImage* 220, 117129.
    """
    _check_options(train, slope, sigma)
    scanners, notes = scanners_with_variance(train)
    is_used = train.scans["scanner"].isin(scanners).to_numpy()
    scans, values = train.scans[is_used], read_finite(train)[is_used]
    columns = indicators(scans["scanner"], scanners)
    encoding = learn_encoding(scans, [*covariates, *([slope] if slope else [])], columns)
    notes += encoding.notes
    trajectory = _learn_trajectory(scans, slope)
    random, (groups, participants) = trajectory.columns(scans), pd.factorize(scans["participant_id"])
    if len(participants) * random.shape[1] >= len(scans):
        notes.append(
            f"It cannot be fitted to these scans: {len(participants)} participants with {random.shape[1]} random effects "
            f"each need more than {len(scans)} scans."
        )
        return Subtraction(no_bias(train), tuple(notes))
    fixed = np.column_stack([columns, encoding.encode(scans)])
    model = fit_mixed_model(values, fixed, random, groups)
    if n_failed := int((~model.is_fitted).sum()):
        notes.append(f"No estimate for {n_failed} of {values.shape[1]} features: no noise, or no maximum of the likelihood.")
    residuals = values - fixed @ model.coefficients
    effects = predict_random_effects(residuals, random, groups, model.factor)
    noise = residuals - np.einsum("nq,nfq->nf", random, effects[groups])
    noise_sd = model.noise_sd if sigma == "REML" else noise.std(axis=0)
    weights, codes = columns.mean(axis=0), columns.argmax(axis=1)
    means = model.coefficients[: len(scanners)]
    standardized = (noise + (means - weights @ means)[codes]) / noise_sd
    gamma, delta2 = np.full_like(means, np.nan), np.full_like(means, np.nan)
    fitted = model.is_fitted
    gamma[:, fitted], delta2[:, fitted] = empirical_bayes(standardized[:, fitted], codes)
    if fitted.sum() == 1:
        notes.append("A single feature: estimates without empirical Bayes, which learns from other features.")
    names = pd.Index(train.features.names, name="feature")
    additive = pd.DataFrame(noise_sd * gamma, index=pd.Index(scanners, name="scanner"), columns=names)
    scale = pd.DataFrame(np.sqrt(delta2), index=additive.index, columns=names)
    bias = bias_table(train, additive.to_numpy(), scanners)
    return FittedLongCombat(
        bias, tuple(notes), additive, scale, model, encoding, trajectory, effects, pd.Index(participants), weights
    )


def empirical_bayes(standardized: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the mean and the variance of standardized data for each scanner by the empirical Bayes of ComBat [1]_.

    For each scanner, means over features are Gaussian and variances inverse gamma, with the moments of the estimates.

    Parameters
    ----------
    standardized : (scan, feature) array
        Data minus mean, covariates and trajectories, over the noise sd.
    codes : (scan,) int array
        Scanner of each scan, 0 to K - 1, each with at least two scans.

    Returns
    -------
    gamma, delta2 : (scanner, feature) array

    References
    ----------
    .. [1] Johnson, Li & Rabinovic (2007). Adjusting batch effects in microarray expression data using empirical Bayes
       methods. *Biostatistics* 8, 118-127.
    """
    groups = [standardized[codes == k] for k in range(codes.max() + 1)]
    gamma = np.stack([group.mean(axis=0) for group in groups])
    delta2 = np.stack([group.var(axis=0, ddof=1) for group in groups])
    if standardized.shape[1] < 2:
        return gamma, delta2
    for k, group in enumerate(groups):
        gamma[k], delta2[k] = _shrink(gamma[k], delta2[k], len(group))
    return gamma, delta2


def _shrink(mean: np.ndarray, variance: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterate the posterior means of one scanner, (feature,), until they agree with one another."""
    prior_mean, prior_variance = mean.mean(), mean.var(ddof=1)
    center, spread = variance.mean(), variance.var(ddof=1)
    gamma, delta2 = mean, variance
    for _ in range(MAX_ITERATIONS):
        gamma = (n * prior_variance * mean + delta2 * prior_mean) / (n * prior_variance + delta2)
        squares = (n - 1) * variance + n * (mean - gamma) ** 2
        # Posterior mean under the inverse gamma with shape center²/spread + 2 and scale center³/spread + center; both
        # parts are multiplied by the spread, which may be 0.
        new = (center**3 + (center + squares / 2) * spread) / (center**2 + (n / 2 + 1) * spread)
        change = np.abs(new - delta2).max() / center
        delta2 = new
        if change < TOLERANCE:
            break
    return gamma, delta2


def _learn_trajectory(scans: pd.DataFrame, slope: str | None) -> Trajectory:
    """Return the columns of the random effects; the slope's column must be numeric and vary."""
    if slope is None:
        return Trajectory()
    values = scans[slope].to_numpy(float)
    if np.ptp(values) == 0:
        raise InputError(
            "A slope needs a column that varies.",
            got=f"{slope!r}, which is {values[0]:g} in all scans",
            expected="a numeric column such as the years since the first scan",
            do="choose another column, or omit the slope",
        )
    return Trajectory(slope, float(values.mean()), float(values.std()))


def _check_options(train: Dataset, slope: str | None, sigma: str) -> None:
    """Raise an `InputError` for an option that cannot be used."""
    if sigma not in ("REML", "MSR"):
        raise InputError(
            "Unknown estimate of the noise sd.", got=f"sigma={sigma!r}", expected="'REML' or 'MSR'", do="omit the option"
        )
    if slope is not None and not (slope in train.scans and pd.api.types.is_numeric_dtype(train.scans[slope])):
        numeric = train.scans.select_dtypes("number").columns
        raise InputError(
            "A slope needs a numeric column of the scans table.",
            got=f"slope={slope!r}",
            expected=f"one of {shorten(numeric, 12)}" if len(numeric) else "a table with a numeric column",
            do="correct the name, or omit the slope",
        )
