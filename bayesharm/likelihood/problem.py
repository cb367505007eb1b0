"""The problem that inference solves for every feature: likelihood, priors and reported contrasts, and good coordinates."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayesharm.likelihood.collapsed import CollapsedLikelihood
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design
from bayesharm.model.labels import NOISE_RATIO, Scale
from bayesharm.model.spec import Priors

Array = jax.Array


class ReportedContrasts(NamedTuple):
    """All reported contrasts, one group of effects after another, sums of columns last.

    Attributes
    ----------
    columns : (contrast,) int array
        The column of each contrast, sums excepted.
    weight : (contrast,) array
        Factor of each contrast.
    contrast_group : (column,) int array
        Columns with the same number are reported minus their mean; those with -1 as they are.
    sums : (sum, dense) array
        Contrasts of sums of dense columns.
    """

    columns: np.ndarray
    weight: np.ndarray
    contrast_group: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """A study prepared for inference; a static argument of compiled programs, which equal problems share.

    Attributes
    ----------
    likelihood : CollapsedLikelihood
    log_medians : (scale,) array
        Prior medians of the log-scales of standardized features.
    reported : ReportedContrasts
    hierarchy : Hierarchy
    participant_scale : int
        Index of the participants' scale if it is part of the noise of single-scan participants, else 0.
    noise_ratio, bias_ratio, gain : bool
        Whether the noise variance, the variance of the biases, and the gain differ between scanners.
    noise_scale : (scanner,) int array
        The scale that is the noise ratio of the scanner in each feature; -1 for none.
    n_scanners, n_correlations : int
    """

    likelihood: CollapsedLikelihood
    log_medians: np.ndarray
    reported: ReportedContrasts
    hierarchy: Hierarchy
    participant_scale: int
    noise_ratio: bool
    bias_ratio: bool
    gain: bool
    noise_scale: np.ndarray
    n_scanners: int
    n_correlations: int

    @property
    def priors(self) -> Priors:
        """Hyperpriors; ``feature_offset_sd`` is 0 where all features are divided by a common sd."""
        return self.hierarchy.priors

    @property
    def n_ratios(self) -> int:
        """Number of ratios: log lambda of each scanner, log kappa, log g, and then atanh rho."""
        return 3 * self.n_scanners + self.n_correlations

    @property
    def is_free(self) -> np.ndarray:
        """Whether a ratio is to be learned, (ratio,); the others are fixed at 1.

        Where features have noise ratios of their own, lambda is the mean of these (:class:`Hierarchy`).
        """
        noise = self.noise_ratio & (self.noise_scale < 0)
        by_scanner = np.repeat([self.bias_ratio, self.gain], self.n_scanners)
        return np.concatenate([noise, by_scanner, np.full(self.n_correlations, True)])

    @property
    def ratio_sd(self) -> np.ndarray:
        """Prior sds of the ratios before they are centered, (ratio,)."""
        priors = self.priors
        by_scanner = np.repeat([priors.noise_ratio_sd, priors.bias_ratio_sd, priors.gain_sd], self.n_scanners)
        return np.concatenate([by_scanner, np.full(self.n_correlations, priors.correlation_sd)])

    @property
    def common(self) -> np.ndarray:
        """Matrix that averages log lambda, log kappa and log g over scanners, (ratio, ratio)."""
        mean = np.kron(np.eye(3), np.full((self.n_scanners, self.n_scanners), 1 / self.n_scanners))
        return np.pad(mean, (0, self.n_correlations))

    @property
    def centering(self) -> np.ndarray:
        """Matrix that centers them, (ratio, ratio); 0 for ratios fixed at 1."""
        return self.is_free[:, None] * (np.eye(self.n_ratios) - self.common)

    def ratios(self, vector: Array | np.ndarray) -> VarianceRatios:
        """Name the parts of a vector of all ratios, (ratio,)."""
        return VarianceRatios.from_vector(vector, self.n_scanners)

    def half_log_lambda(self, ratios: VarianceRatios) -> np.ndarray:
        """log sqrt(lambda) in the place of each noise ratio, and 0 for sds, (scale,)."""
        scanners, values = np.flatnonzero(self.noise_scale >= 0), np.zeros(len(self.log_medians))
        values[self.noise_scale[scanners]] = np.asarray(ratios.log_noise)[scanners] / 2
        return values

    @property
    def equal_ratios(self) -> VarianceRatios:
        """Ratios of 1, and correlations of 0."""
        return VarianceRatios.equal(self.n_scanners, self.n_correlations)

    @cached_property
    def digest(self) -> bytes:
        """sha256 of the content."""
        return hashlib.sha256(pickle.dumps([getattr(self, field.name) for field in fields(self)])).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Gaussian(NamedTuple):
    """Normal prior of the log-scales without their feature offset, the same for every feature; (scale,) each."""

    mean: np.ndarray
    sd: np.ndarray


def make_problem(design: Design, likelihood: CollapsedLikelihood | None = None, *, has_missing: bool = False) -> Problem:
    """Prepare a design for inference.

    Parameters
    ----------
    design : Design
    likelihood : CollapsedLikelihood, optional
        That of other scans under the columns of this design; by default that of the design.
    has_missing : bool
        Whether features lack scans of the design.
    """
    priors = replace(design.spec.priors, feature_offset_sd=design.spec.feature_offset_sd)
    index = {scale: k for k, scale in enumerate(design.scales)}
    return Problem(
        likelihood=likelihood or CollapsedLikelihood(design, has_missing=has_missing),
        log_medians=np.log(design.scale_medians),
        reported=_list_contrasts(design),
        hierarchy=Hierarchy(priors, len(design.scales), design.n_eta),
        participant_scale=design.single_scan_scale if design.class_single_scan.any() else 0,
        noise_ratio=design.spec.noise_ratio != "homogeneous",
        bias_ratio=design.spec.bias_ratio == "scanner",
        gain=design.spec.gain == "scanner",
        noise_scale=np.array([index.get(Scale(NOISE_RATIO, name), -1) for name in design.scanners]),
        n_scanners=len(design.scanners),
        n_correlations=len(design.correlations),
    )


def _list_contrasts(design: Design) -> ReportedContrasts:
    contrast_group = np.full(len(design.columns), -1)
    single = [group for group in design.effects if not group.is_sum]
    for group in single:
        for label in np.unique(group.contrast_group[group.contrast_group >= 0]):
            contrast_group[group.columns[group.contrast_group == label]] = contrast_group.max() + 1
    columns, weight = (np.concatenate([getattr(group, name) for group in single]) for name in ("columns", "weight"))
    sums = [group.contrasts[:, : design.n_dense] for group in design.effects if group.is_sum]
    return ReportedContrasts(columns[:, 0], weight, contrast_group, np.concatenate([np.zeros((0, design.n_dense)), *sums]))


def to_coordinates(participant_scale: int, log_scales: Array) -> Array:
    """Transform log-scales to coordinates in which their posterior is nearly Gaussian.

    Single-scan participants determine the total variance sigma² + tau² of noise and participants well, but hardly its two
    parts: in log sigma and log tau the posterior is a thin, curved ridge. The two coordinates

        log sqrt(sigma² + tau²)   in place of log sigma,
        log(tau / sigma)          in place of log tau

    straighten it: the first is well determined and nearly independent of the second. All other log-scales stay.

    Parameters
    ----------
    participant_scale : int
        :attr:`Problem.participant_scale`; with 0, tau is not part of any noise and nothing changes.
    log_scales : (..., scale, feature) array
    """
    if not participant_scale:
        return log_scales
    noise, participant = log_scales[..., 0, :], log_scales[..., participant_scale, :]
    total = 0.5 * jnp.logaddexp(2 * noise, 2 * participant)
    return log_scales.at[..., 0, :].set(total).at[..., participant_scale, :].set(participant - noise)


def to_log_scales(participant_scale: int, coordinates: Array) -> Array:
    """Transform coordinates back to log-scales; inverse of :func:`to_coordinates`.

    The Jacobian determinant of either is 1, so that a density has the same value in both.
    """
    if not participant_scale:
        return coordinates
    total, ratio = coordinates[..., 0, :], coordinates[..., participant_scale, :]
    noise = total - 0.5 * jnp.logaddexp(0.0, 2 * ratio)
    return coordinates.at[..., 0, :].set(noise).at[..., participant_scale, :].set(noise + ratio)
