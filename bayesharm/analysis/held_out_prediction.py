"""Prediction of held-out scans by one run, with hyperparameters and scales estimated from the other scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.analysis.null_scales import hyperparameter_center
from bayesharm.analysis.predictive_scores import Scores, average_pit, score
from bayesharm.analysis.validation_schemes import Scheme
from bayesharm.conditional.held_out_groups import arrange_folds
from bayesharm.conditional.leave_group_out import leave_group_out
from bayesharm.fitting.context import FitContext
from bayesharm.inference.hyper_target import find_mode, plain_target
from bayesharm.inference.importance import log_importance_weights, log_prior, quadratic_features
from bayesharm.inference.placement import place_importance_samples, prior_at
from bayesharm.likelihood.moments import Moments, Standardization
from bayesharm.likelihood.problem import to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.results.posterior import Posterior

N_SAMPLES = 128  # importance samples of the scales of each feature


@dataclass(frozen=True, eq=False)
class HeldOutPredictor:
    """Importance samples of the scales of some features, from the posterior of one run.

    Attributes
    ----------
    ratios : VarianceRatios
        log variance ratios of the scanners, of noise and bias.
    center : (dimension,) array
        eta and log excess of the run.
    values : (scan, feature) array
        Standardized features.
    log_scales : (sample, scale, feature) array
    log_weights : (sample, feature) array
        log likelihood given all scans minus log proposal.
    """

    context: FitContext
    ratios: VarianceRatios
    center: np.ndarray
    moments: Moments
    standardization: Standardization
    values: np.ndarray
    log_scales: np.ndarray
    log_weights: np.ndarray

    @classmethod
    def from_posterior(
        cls, posterior: Posterior, context: FitContext, features: np.ndarray, n_samples: int = N_SAMPLES
    ) -> HeldOutPredictor:
        """Draw importance samples around the modes of the features' scales."""
        problem, ratios = context.problem, posterior.variance_ratios()
        center, eta_sd = hyperparameter_center(posterior, problem)
        eta = problem.hierarchy.split(center)[0]
        with context.devices.in_use("float64"):
            moments, standardization = context.moments(features)
            start = to_coordinates(problem.participant_scale, jnp.repeat(jnp.asarray(eta)[:, None], len(features), axis=1))
            keys = feature_keys(context.seed, Stage.IMPORTANCE, features)
            samples, _ = place_importance_samples(problem, moments, center, eta_sd, ratios, keys, n_samples, (start,))
            log_weights = np.asarray(log_importance_weights(problem, ratios, moments, samples))
        values = (context.values(features) - standardization.center) / standardization.sd
        log_scales = np.asarray(samples.log_scales)
        return cls(context, ratios, center, moments, standardization, values, log_scales, log_weights)

    def predict(self, scheme: Scheme, with_pit: bool) -> tuple[Scores, np.ndarray | None]:
        """Score the units of a scheme, in the features' units; on request with the PIT of each scan, (scan, feature)."""
        design = self.context.design
        folds, units = scheme.folds[design.rows], scheme.units[design.rows]
        is_scored = units >= 0
        n_scans = np.zeros((units.max() + 1, self.values.shape[1]))
        np.add.at(n_scans, units[is_scored], ~np.isnan(self.values[is_scored]))
        fold_of_unit = np.zeros(len(n_scans), int)
        fold_of_unit[units[is_scored]] = folds[is_scored]
        with self.context.devices.in_use("float64"):
            held_out = leave_group_out(
                self.context.problem, self.ratios, self.moments, self.values, self.log_scales,
                arrange_folds(design, folds, units), with_pit,
            )  # fmt: skip
            basis = quadratic_features(jnp.asarray(self.log_scales))
            weight = np.stack([self._weigh_without(held_out.folds[:, fold], basis) for fold in range(folds.max() + 1)])
        scores = score(weight, held_out, fold_of_unit)
        log_density = scores.log_density - n_scans * np.log(self.standardization.sd)
        return scores._replace(log_density=log_density), average_pit(weight, held_out, folds) if with_pit else None

    def _weigh_without(self, log_density: np.ndarray, basis: Any) -> np.ndarray:
        """Weigh samples by the likelihood of all scans and the prior at the mode of the hyperparameters without a fold."""
        problem = self.context.problem
        without_fold = jnp.asarray(self.log_weights - log_density)
        log_medians = problem.log_medians - problem.half_log_lambda(self.ratios)
        target = plain_target(log_medians, basis, without_fold)
        mode = np.asarray(find_mode(problem.hierarchy, target, jnp.asarray(self.center[:, None])).mode)
        mean, sd = prior_at(problem.hierarchy, mode)
        return self.log_weights + np.asarray(log_prior(basis, mean, jnp.log(sd), problem.hierarchy.offset_sd)[0])
