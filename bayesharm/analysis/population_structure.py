"""Test of sampling bias: do all sites sample one population, or each a population of its own?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from bayesharm.analysis.null_scales import (
    TrainingFeatures,
    evaluate_features,
    evaluate_hypotheses,
    sample_training_features,
    standardize,
)
from bayesharm.analysis.predictive_scores import Scores, elpd_difference, reliability_warnings, score, to_elpd
from bayesharm.analysis.yamashita_regression import PopulationRegression, regress_populations
from bayesharm.conditional.held_out_groups import arrange_folds
from bayesharm.conditional.leave_group_out import leave_group_out
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, ModelError
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.effective_features import count_independent_features, list_cells
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.inference.spike_and_slab import LOG_NULL_SCALE, Evidence
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import build_design
from bayesharm.model.labels import Scale
from bayesharm.progress import Progress, no_progress
from bayesharm.results.console import as_text, bullets, format_with_interval, make_table
from bayesharm.results.nodes import read_populations, read_scales
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group

ALL = "all"  # the family name for the sampling bias of all diagnoses together
METHODS = ("posterior", "yamashita2019")
PRIOR_PROBABILITY = {"none": 0.5, "some": 0.25, "all": 0.25}  # of sampling bias in no feature, in some, in all
N_PREDICTED = 64  # training features whose held-out scans are predicted
N_PREDICTION_SAMPLES = 128  # importance samples of the scales of each predicted feature
DIM, OFFSET = "population", "seen at one site"
PEOPLE = {"HC": "healthy controls"}


@dataclass(frozen=True, eq=False, repr=False)
class PopulationTest(Tables):
    """Evidence for one population or several, for each diagnosis and for all together (family `all`).

    Attributes
    ----------
    about : dict
        `n_features`; `n_training_features`, from which the hypotheses about all features are tested;
        `n_independent_features`, the effective number of independent features among these; `preview`.
    families : DataFrame by family
        `diagnosis`, empty for all together; `probability` of several populations (½ before the data);
        `log_bayes_factor_some` and `log_bayes_factor_all`: log marginal likelihood if some features, or all, have sampling
        bias, minus that if none has; `share` of the features with sampling bias and `scale`, typical among these (in
        standard deviations of a feature), with 90% intervals;
        `khat`, the largest Pareto-k of the integrals over hyperparameters, and `is_reliable`, whether all three converged.
    predictions : DataFrame by family and type of unit
        Prediction of held-out `sites` (their people who did not travel) and `participants` with sampling bias minus without:
        `difference` of the log predictive densities, summed over `n_features` features, with its standard error `se` over
        `n` sites or participants, and the share of Pareto-k above 0.7, `khat_high`.
    features : DataFrame by feature
        For each family the `probability` of sampling bias in this feature, its `log_bayes_factor`, and the Monte-Carlo
        standard `error` of that.
    elpd : dict
        ``elpd[family, type of unit]["one population" or "several populations"]`` for :func:`arviz.compare`.
    notes : tuple of str
        Caveats.
    """

    about: dict[str, Any]
    families: pd.DataFrame
    predictions: pd.DataFrame
    features: pd.DataFrame
    elpd: Mapping[tuple[str, str], Mapping[str, Any]]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_populations(self)

    def conclusions(self) -> list[str]:
        """State the probability of several populations, for each diagnosis and for all together."""
        return [
            f"{_people(row.diagnosis)}: several populations with probability {two_digits(row.probability)}"
            + ("" if row.is_reliable else "; only roughly: the integral over hyperparameters did not converge")
            for _, row in self.families.iterrows()
        ]


def test_populations(
    posterior: Posterior, dataset: Dataset | None = None, *, method: str = "posterior", progress: Progress | None = None
) -> PopulationTest | PopulationRegression:
    """Test for each diagnosis whether the sites sample one population or several.

    Sampling bias of a diagnosis is zero in all features, in an unknown share of them, or in none. The marginal likelihoods
    of these three hypotheses, over all scales and hyperparameters, give the probability of several populations; those of
    each feature give the probability of sampling bias in it. A difference between travelers and all people who did not
    travel, common to all sites, is modeled apart: it is no evidence for several populations. Correlated features count with
    their effective number. The variance ratios of the scanners stay as the run estimated them.

    Parameters
    ----------
    posterior : Posterior
        From a model with sampling bias.
    dataset : Dataset, optional
        The data of the fit; by default read from the files of the fit.
    method : {'posterior', 'yamashita2019'}
        `yamashita2019` is the regression of the 2019 study,
        :func:`~bayesharm.analysis.yamashita_regression.regress_populations`. It is not specific: it nearly always prefers
        several populations.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).

    Returns
    -------
    PopulationTest or PopulationRegression

    Raises
    ------
    ModelError
        The model has no sampling bias, or no diagnosis comes from several sites.
    InputError
        The data cannot be found or are not those of the fit; the method is unknown.
    """
    if method not in METHODS:
        raise InputError(
            "The method is not known.",
            got=repr(method),
            expected=f"one of {', '.join(METHODS)}",
            do="leave the option out",
        )
    if method == "posterior":
        return compare_populations(posterior, dataset, progress)
    sampling_scales(posterior)  # refuses a run without sampling bias
    return regress_populations(load_fit_context(posterior, dataset).dataset, reference=posterior.spec.reference)


# pytest collects every function whose name begins with `test_` in a test module, imported ones too.
test_populations.__test__ = False  # type: ignore[attr-defined]


def compare_populations(
    posterior: Posterior, dataset: Dataset | None = None, progress: Progress | None = None
) -> PopulationTest:
    """Compare one population with several by their marginal likelihoods, as :func:`test_populations` describes."""
    diagnoses = sampling_scales(posterior)
    names = list(diagnoses)
    progress = progress or no_progress
    progress("populations", 0, 1, "reading the data")
    context = _with_offset(load_fit_context(posterior, dataset))
    scales = np.array(context.design.scale_labels)
    masks = {name: (scales != name).astype(float) for name in names}  # 0: the scale is zero
    if len(names) > 1:
        masks[ALL] = (~np.isin(scales, names)).astype(float)
    ratios = posterior.variance_ratios()
    with context.devices.in_use("float64"):
        training = sample_training_features(posterior, context, ratios, masks)
        n_independent = count_independent_features(
            standardize(context, training.features), list_cells(context.design, context.dataset.scans)
        )
        evidence = evaluate_hypotheses(context, training, ratios, masks, n_independent / len(training.features), progress)
        predictions, elpd = _predict(context, training, ratios, masks, evidence, progress)
    features = evaluate_features(context, ratios, masks, evidence, progress)
    rows = {name: _summarize_evidence(evidence[name], mask == 0) for name, mask in masks.items()}
    families = pd.DataFrame.from_dict(rows, orient="index").rename_axis("family")
    families.insert(0, "diagnosis", [diagnoses.get(name, "") for name in masks])
    for name in masks:  # average over the hypotheses: probability 0 in "none", 1 in "all"
        column, family = f"probability_{name}", families.loc[name]
        features[column] = features[column] * family["probability_some"] + family["probability_all"]
    return PopulationTest(
        about={
            "n_features": len(features),
            "n_training_features": len(training.features),
            "n_independent_features": n_independent,
            "preview": bool(posterior.preview_notice),
        },
        families=families.drop(columns=["probability_some", "probability_all"]),
        predictions=predictions,
        features=features,
        elpd=elpd,
        notes=(*filter(None, [posterior.preview_notice]), *reliability_warnings(predictions)),
    )


def _with_offset(context: FitContext) -> FitContext:
    """Add a covariate for people of one site: a difference from travelers between sites that is common to all sites."""
    travels = context.dataset.scans["participant_id"].isin(context.design.site_travelers)
    if travels.groupby(context.dataset.scans["scanner"]).nunique().max() < 2:  # no scanner has both
        return context
    scans = context.dataset.scans.assign(**{OFFSET: (~travels).astype(float)})
    spec = replace(context.design.spec, covariates=(*context.design.spec.covariates, OFFSET))
    design = build_design(scans, spec)
    dataset = replace(context.dataset, scans=scans)
    with context.devices.in_use("float64"):
        problem = make_problem(design, has_missing=context.has_missing)
        return replace(context, dataset=dataset, design=design, problem=problem)


def sampling_scales(posterior: Posterior) -> dict[str, str]:
    """Return the labels of the scales of sampling bias, each with its diagnosis; empty for a scale of all diagnoses.

    Raises
    ------
    ModelError
        There are none.
    """
    families = [family for family in posterior.spec.families if family.by == "population"]
    scales = read_scales(posterior.scales)
    reported = {  # populations with another one to be compared with, by scale
        Scale(family.name, population.diagnosis if family.split else "")
        for family in families
        if family.name in posterior.effect_families
        for population in read_populations(posterior.effect(family.name))
    }
    groups = {label: scale.group for label, scale in scales.items() if scale in reported}
    if not groups:
        raise ModelError(
            "The run has no sampling bias to test.",
            got=f"the model {posterior.spec.name!r} with {', '.join(scales)}",
            expected="a run of traveling_and_cohort, with people of several sites who did not travel between sites",
            do="fit that model",
        )
    return groups


def _summarize_evidence(evidence: Mapping[str, Evidence], is_zero: np.ndarray) -> dict[str, float]:
    """Compute posterior probabilities of the three hypotheses, and share and typical scale where some features have it."""
    none = evidence["none"].log_evidence
    log_factor = {name: each.log_evidence - none for name, each in evidence.items()}
    weight = {name: PRIOR_PROBABILITY[name] * np.exp(value - max(log_factor.values())) for name, value in log_factor.items()}
    share, scale = evidence["some"].share, np.exp(evidence["some"].eta[:, is_zero].mean(1))
    low, high = np.quantile(share, [0.05, 0.95])
    scale_low, scale_high = np.quantile(scale, [0.05, 0.95])
    total = sum(weight.values())
    return {
        "probability": 1 - weight["none"] / total,
        "probability_some": weight["some"] / total,
        "probability_all": weight["all"] / total,
        "log_bayes_factor_some": log_factor["some"],
        "log_bayes_factor_all": log_factor["all"],
        "share": share.mean(),
        "share_q05": low,
        "share_q95": high,
        "scale": scale.mean(),
        "scale_q05": scale_low,
        "scale_q95": scale_high,
        "khat": max(each.khat for each in evidence.values()),
        "is_reliable": all(each.is_reliable for each in evidence.values()),
    }


def _predict(
    context: FitContext, training: TrainingFeatures, ratios: VarianceRatios, masks: Mapping[str, np.ndarray],
    evidence: Mapping[str, Mapping[str, Evidence]], progress: Progress,
) -> tuple[pd.DataFrame, dict[tuple[str, str], dict[str, Any]]]:  # fmt: skip
    """Predict held-out participants, and the people of held-out sites who did not travel, with and without sampling bias."""
    design, problem = context.design, context.problem
    subset = np.unique(np.linspace(0, len(training.features) - 1, N_PREDICTED).astype(int))
    moments = training.moments.take(subset)
    values = standardize(context, training.features[subset])
    log_scales = np.asarray(training.log_scales[:N_PREDICTION_SAMPLES, :, subset])
    basis = quadratic_features(jnp.asarray(log_scales))

    def predict(k: int, mask: np.ndarray, given: Evidence, folds: np.ndarray) -> Scores:
        masked = np.where(mask[:, None] > 0, log_scales, LOG_NULL_SCALE)
        held_out = leave_group_out(problem, ratios, moments, values, masked, arrange_folds(design, folds))
        eta, log_omega = given.eta.mean(0)[:, None], np.log(given.omega).mean(0)[:, None]
        prior = log_prior(basis, eta, log_omega, problem.hierarchy.offset_sd, mask[:, None])[0]
        weight = np.asarray(training.weights[k][:N_PREDICTION_SAMPLES, subset] + prior)
        return score(weight, held_out, np.arange(folds.max() + 1))

    people, participant = np.unique(design.participants.astype(str), return_inverse=True)
    whole, in_all = np.ones(len(log_scales[0])), next(iter(evidence.values()))["all"]
    participants_with_bias = predict(0, whole, in_all, participant)
    rows, elpd = {}, {}
    for k, (name, mask) in enumerate(masks.items(), start=1):
        progress("predictions", k - 1, len(masks), name)
        sites, site = _sites(context, mask == 0)
        for unit_type, labels, folds in (("sites", sites, site), ("participants", people, participant)):
            several = participants_with_bias if unit_type == "participants" else predict(0, whole, in_all, folds)
            one = predict(k, mask, evidence[name]["none"], folds)
            rows[name, unit_type] = elpd_difference(several, one)
            elpd[name, unit_type] = {
                "several populations": to_elpd(several, labels, unit_type, N_PREDICTION_SAMPLES),
                "one population": to_elpd(one, labels, unit_type, N_PREDICTION_SAMPLES),
            }
    progress("predictions", len(masks), len(masks), "")
    table = pd.DataFrame(rows).T.rename_axis(["family", "left_out"])
    return table.astype({"n": int, "n_features": int}), elpd


def _sites(context: FitContext, is_zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sites of people with the sampling bias of some scales, and the place of each scan's site, else -1."""
    design = context.design
    columns = np.isin(design.column_scale, np.flatnonzero(is_zero))
    has_bias = np.asarray(design.matrix[:, columns].sum(axis=1)).reshape(-1) > 0
    site = context.dataset.scans["site"].astype(str).to_numpy()[design.rows]
    sites = np.unique(site[has_bias])
    return sites, np.where(has_bias, np.searchsorted(sites, site), -1)


def two_digits(probability: float) -> str:
    """Format a probability with the two digits that its prior supports."""
    return "> 0.99" if probability > 0.995 else "< 0.01" if probability < 0.005 else f"{probability:.2f}"


def _people(diagnosis: str) -> str:
    return PEOPLE.get(diagnosis, diagnosis) or "everybody"


def render_populations(test: PopulationTest) -> Group:
    """Render the Bayes factors, the predictive comparison, conclusions and caveats."""
    from rich.console import Group

    about = test.about
    factors = make_table(
        "One population or several",
        f"From {about['n_training_features']} features (effective number of independent ones: "
        f"{about['n_independent_features']:.0f}). Log Bayes factors of sampling bias in some features, or in all, against "
        "none. Share: of the features with sampling bias, with its 90% interval. Scale: typical among these, in sd of a "
        "feature.",
        ["sampling bias", "some", "all", "share", "90% interval", "scale"],
    )
    for family, row in test.families.iterrows():
        share = format_with_interval(row, "share", 2)
        factors.add_row(str(family), f"{row.log_bayes_factor_some:+.1f}", f"{row.log_bayes_factor_all:+.1f}", *share,
                        f"{row.scale:.3f}")  # fmt: skip
    predictions = make_table(
        "Prediction of held-out sites and participants",
        "Log predictive density with sampling bias minus without, summed over features. A positive difference favors "
        "several populations. se: standard error over sites or participants.",
        ["sampling bias", "held out", "number", "features", "difference", "se"],
    )
    for (family, unit_type), row in test.predictions.iterrows():
        numbers = f"{row.n:.0f}", f"{row.n_features:.0f}", f"{row.difference:+.1f}", f"{row.se:.1f}"
        predictions.add_row(str(family), str(unit_type), *numbers)
    return Group(factors, predictions, bullets("Conclusions", test.conclusions()), bullets("Caveats", test.notes))
