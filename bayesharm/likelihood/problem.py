"""What every stage of the inference shares, and the keys of its random numbers."""

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
from bayesharm.likelihood.layout import Plan, lay_out, make_plan
from bayesharm.model.design import Design
from bayesharm.model.spec import Priors

Array = jax.Array


class Reported(NamedTuple):
    """All reported contrasts, group after group, those of sums last.

    Attributes
    ----------
    columns : (effect,) int array
    weight : (effect,) array
        What each contrast is multiplied by.
    contrast_group : (column,) int array
        Columns with the same number are reported against their mean; those with -1 as they are.
    sums : (sum, dense) array
        Contrasts of sums of dense columns.
    """

    columns: np.ndarray
    weight: np.ndarray
    contrast_group: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """A study laid out for inference, a static argument of programs: what is compiled for one serves for all that equal it.

    Attributes
    ----------
    likelihood : CollapsedLikelihood
    log_medians : (scale,) array
        Prior medians of the log-scales of standardized features.
    reported : Reported
    priors : Priors
        ``feature_offset_sd`` is 0 where features share one unit.
    pair : int
        Index of the participants' scale if the noise of people scanned once contains it, else 0.
    noise_ratio, bias_ratio : bool
        Whether scanners differ in noise, and in how large their biases are.
    n_scanners : int
    """

    likelihood: CollapsedLikelihood
    log_medians: np.ndarray
    reported: Reported
    priors: Priors
    pair: int
    noise_ratio: bool
    bias_ratio: bool
    n_scanners: int

    @property
    def n_ratios(self) -> int:
        """Log lambda of each scanner, and log kappa of each."""
        return 2 * self.n_scanners

    @property
    def ratio_sd(self) -> np.ndarray:
        """Their prior sds before they are centered, (ratio,)."""
        return np.repeat([self.priors.noise_ratio_sd, self.priors.bias_ratio_sd], self.n_scanners)

    @property
    def centering(self) -> np.ndarray:
        """What centers each kind of ratio over scanners, or makes it 0 where scanners do not differ; (ratio, ratio)."""
        center = np.eye(self.n_scanners) - 1 / self.n_scanners
        return np.kron(np.diag([self.noise_ratio, self.bias_ratio]), center)

    @cached_property
    def digest(self) -> bytes:
        """sha256 of the content."""
        return hashlib.sha256(pickle.dumps([getattr(self, field.name) for field in fields(self)])).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Gaussian(NamedTuple):
    """A Normal prior of the log-scales but for their amplitude, the same for every feature; (scale,) each."""

    mean: np.ndarray
    sd: np.ndarray


def make_problem(design: Design, plan: Plan | None = None) -> Problem:
    """Lay a design out for inference; its plan too, unless it is of other scans than the design's."""
    return Problem(
        likelihood=CollapsedLikelihood(plan or make_plan(design, lay_out(design))),
        log_medians=np.log(design.scale_medians),
        reported=_list_reported(design),
        priors=replace(design.spec.priors, feature_offset_sd=design.spec.feature_offset_sd),
        pair=design.single_scan_scale if design.class_single_scan.any() else 0,
        noise_ratio=design.spec.noise_ratio == "scanner",
        bias_ratio=design.spec.bias_ratio == "scanner",
        n_scanners=len(design.scanners),
    )


def _list_reported(design: Design) -> Reported:
    contrast_group = np.full(len(design.columns), -1)
    single = [group for group in design.effects if not group.is_sum]
    for group in single:
        for label in np.unique(group.contrast_group[group.contrast_group >= 0]):
            contrast_group[group.columns[group.contrast_group == label]] = contrast_group.max() + 1
    columns, weight = (np.concatenate([getattr(group, name) for group in single]) for name in ("columns", "weight"))
    sums = [group.contrasts[:, : design.n_dense] for group in design.effects if group.is_sum]
    return Reported(columns[:, 0], weight, contrast_group, np.concatenate([np.zeros((0, design.n_dense)), *sums]))


def to_coordinates(pair: int, log_scales: Array) -> Array:
    """What posteriors are nearly Gaussian in: log-scales, but total and ratio in place of noise and participants.

    People scanned once determine sigma² + tau² well, and not what each contributes: in log-scales that is a thin curved
    ridge. ``log sqrt(sigma² + tau²)`` stands in the place of log sigma, ``log(tau / sigma)`` in that of log tau.

    Parameters
    ----------
    pair : int
        :attr:`Problem.pair`; with 0 nothing changes.
    log_scales : (..., scale, feature) array
    """
    if not pair:
        return log_scales
    noise, participant = log_scales[..., 0, :], log_scales[..., pair, :]
    total = 0.5 * jnp.logaddexp(2 * noise, 2 * participant)
    return log_scales.at[..., 0, :].set(total).at[..., pair, :].set(participant - noise)


def to_log_scales(pair: int, coordinates: Array) -> Array:
    """Inverse of :func:`to_coordinates`. Its Jacobian determinant is 1, so that densities are the same in both."""
    if not pair:
        return coordinates
    total, ratio = coordinates[..., 0, :], coordinates[..., pair, :]
    noise = total - 0.5 * jnp.logaddexp(0.0, 2 * ratio)
    return coordinates.at[..., 0, :].set(noise).at[..., pair, :].set(noise + ratio)
