"""Does each site sample a population of its own? Sampling bias that is 0 against sampling bias that is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from bayesharm.analysis.null_scales import (
    TrainingFeatures,
    feature_posteriors,
    sample_training_features,
    standardized,
    weigh_hypotheses,
)
from bayesharm.analysis.predictive_scores import Scores, difference, reliability_warnings, score, to_elpd
from bayesharm.analysis.yamashita_regression import PopulationRegression, regress_populations
from bayesharm.conditional.leave_group_out import arrange_folds, leave_group_out
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, ModelError
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.effective_features import count_independent_features, list_cells
from bayesharm.inference.importance import log_prior, quadratic_features
from bayesharm.inference.spike_and_slab import LOG_NULL_SCALE, Evidence
from bayesharm.likelihood.moments import Moments
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


def render_populations(found: PopulationTest) -> Group:
    """Whether sites sample populations of their own, how well that predicts, and a verdict for each diagnosis."""
    from rich.console import Group

    about = found.about
    table = make_table(
        "One population or several",
        f"From {about['n_teachers']} features, which go together and count as {about['n_effective']:.0f}. Log Bayes factors "
        "against no sampling bias in any feature: where some features have it, or all. Share: of features that have it, "
        "with its 90% interval. Scale: typical for those, in sd of a feature.",
        ["sampling bias", "some", "all", "share", "90% interval", "scale"],
    )
    for family, row in found.families.iterrows():
        share = format_with_interval(row, "share", 2)
        table.add_row(str(family), f"{row.log_bayes_factor_some:+.1f}", f"{row.log_bayes_factor_all:+.1f}", *share,
                      f"{row.scale:.3f}")  # fmt: skip
    left = make_table(
        "Predicting what is left out",
        "Log predictive density with sampling bias less that without, summed over features; se: over sites or participants.",
        ["sampling bias", "left out", "number", "features", "difference", "se"],
    )
    for (family, what), row in found.predictions.iterrows():
        numbers = f"{row.n:.0f}", f"{row.n_features:.0f}", f"{row.difference:+.1f}", f"{row.se:.1f}"
        left.add_row(str(family), str(what), *numbers)
    return Group(table, left, bullets("Verdict", found.verdicts()), bullets("Beware", found.notes))


ALL, METHODS = "all", ("posterior", "yamashita2019")
N_PREDICTED, NODES_OF_PREDICTIONS = 64, 128  # features that are predicted, and nodes of each
OFFSET = "did not travel"
PEOPLE = {"HC": "healthy controls"}
PRIOR = {"none": 0.5, "some": 0.25, "all": 0.25}  # of features that have the sampling bias


@dataclass(frozen=True, eq=False)
class PopulationTest(Tables):
    """Whether sites sample populations of their own, for each diagnosis and for all together (`all`).

    Attributes
    ----------
    about : dict
        `n_features`, `n_training_features` (features that the verdict on all of them is from), `n_effective` (what
        these are worth,
        since features go together), `preview`.
    families : DataFrame by family
        `diagnosis` (empty for all together); `probability` of several populations (½ beforehand);
        `log_bayes_factor_some`, `log_bayes_factor_all`: log marginal likelihood where some features, or all, have sampling
        bias, less that where none has; `share` of features that have it, and `scale`, typical for those (in standard
        deviations of a feature), with 90% intervals; `khat` of the integral over hyperparameters, the worst of the three,
        and whether all are `good`.
    predictions : DataFrame by family and what was left out
        How much better `sites` (their people who did not travel) or `participants` are predicted from all others with
        sampling bias than without: `difference` of the log predictive densities, summed over `n_features` features, its
        standard error `se` over `n` sites or participants, and the share of Pareto-k above 0.7, `khat_high`.
    features : DataFrame by feature
        For each family the `probability` that the feature has sampling bias, the `log_bayes_factor` of that, and its
        Monte-Carlo `error`.
    elpd : dict
        ``elpd[family, left out]["one population" or "several populations"]`` for :func:`arviz.compare`.
    notes : tuple of str
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

    def verdicts(self) -> list[str]:
        """A line for each diagnosis, and for all: the probability of several populations."""
        return [
            f"several populations: {_two_digits(row.probability)} ({_people(row.diagnosis)})"
            + ("" if row.good else "; roughly, since the integral over hyperparameters did not converge")
            for _, row in self.families.iterrows()
        ]


def _two_digits(probability: float) -> str:
    return "> 0.99" if probability > 0.995 else "< 0.01" if probability < 0.005 else f"{probability:.2f}"


def _people(diagnosis: str) -> str:
    return PEOPLE.get(diagnosis, diagnosis) or "everybody"


def test_populations(
    posterior: Posterior, dataset: Dataset | None = None, *, method: str = "posterior", progress: Progress | None = None
) -> PopulationTest | PopulationRegression:
    """Compare one population with several, for each diagnosis.

    The scales of the sampling bias of a diagnosis are 0 in all features, in a share of them that is not known, or in none:
    the marginal likelihoods of the three, over all scales and hyperparameters, give the probability of several populations.
    What people who did not travel have in common against travelers is left to itself. Features that go together count as
    their effective number. Which features have sampling bias is said for each of them. The noise ratio of scanners is as the
    run found it.

    Parameters
    ----------
    posterior : Posterior
        Of a model with sampling bias.
    dataset : Dataset, optional
        That of the fit; by default it is read from where it was then.
    method : {'posterior', 'yamashita2019'}
        The latter is the regression of the 2019 study,
        :func:`~bayesharm.analysis.yamashita_regression.regress_populations`, which prefers
        several populations whether there are or not.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).

    Returns
    -------
    Populations, or PopulationRegression

    Raises
    ------
    ModelError
        The run has no sampling bias, or that of single sites.
    InputError
        The data are not there, or are not those of the fit; the method is not known.
    """
    if method not in METHODS:
        raise InputError(
            "The method is not known.",
            got=repr(method),
            expected=f"one of {', '.join(METHODS)}",
            do="leave it out",
        )
    if method == METHODS[0]:
        return find_populations(posterior, dataset, progress)
    sampling_scales(posterior)  # refuses a run without sampling bias
    return regress_populations(load_fit_context(posterior, dataset).dataset, reference=posterior.spec.reference)


def find_populations(
    posterior: Posterior, dataset: Dataset | None = None, progress: Progress | None = None
) -> PopulationTest:
    """By the posterior, as :func:`test_populations` says."""
    groups = sampling_scales(posterior)
    names = list(groups)
    progress = progress or no_progress
    progress("populations", 0, 1, "reading the data")
    study = _with_offset(load_fit_context(posterior, dataset))
    scales = np.array(study.design.scale_labels)
    masks = {name: (scales != name).astype(float) for name in names}  # 0 for what is 0
    if len(names) > 1:
        masks[ALL] = (~np.isin(scales, names)).astype(float)
    ratios = posterior.variance_ratios()
    with study.devices.in_use("float64"):
        teachers = sample_training_features(posterior, study, ratios, masks)
        n_effective = count_independent_features(
            standardized(study, teachers.features), list_cells(study.design, study.dataset.scans)
        )
        evidences = weigh_hypotheses(study, teachers, masks, n_effective / len(teachers.features), progress)
        told = _predict(study, teachers, ratios, masks, evidences, progress)
    features = feature_posteriors(study, ratios, masks, evidences, progress)
    rows = {name: _row(found, masks[name] == 0) for name, found in evidences.items()}
    families = pd.DataFrame.from_dict(rows, orient="index").rename_axis("family")
    families.insert(0, "diagnosis", [groups.get(name, "") for name in masks])
    for name in masks:  # where no feature has it, or all have, so has or has not each
        weight = families.loc[name]
        some, every = weight["probability_some"], weight["probability_all"]
        features[f"probability_{name}"] = features[f"probability_{name}"] * some + every
    return PopulationTest(
        about={
            "n_features": len(features),
            "n_teachers": len(teachers.features),
            "n_effective": n_effective,
            "preview": bool(posterior.preview_notice),
        },
        families=families.drop(columns=["probability_some", "probability_all"]),
        predictions=told[0],
        features=features,
        elpd=told[1],
        notes=(*filter(None, [posterior.preview_notice]), *reliability_warnings(told[0])),
    )


def _with_offset(study: FitContext) -> FitContext:
    """The study with a column for whoever did not travel: what all sites have in common against travelers does not tell them
    apart."""
    travels = study.dataset.scans["participant_id"].isin(study.design.travelers)
    if travels.all() or not travels.any():
        return study
    scans = study.dataset.scans.assign(**{OFFSET: (~travels).astype(float)})
    spec = replace(study.design.spec, covariates=(*study.design.spec.covariates, OFFSET))
    design = build_design(scans, spec)
    with study.devices.in_use("float64"):
        return replace(study, dataset=replace(study.dataset, scans=scans), design=design, problem=make_problem(design))


def sampling_scales(posterior: Posterior) -> dict[str, str]:
    """Labels of the scales of sampling bias, each with its diagnosis; empty for a scale of all diagnoses.

    Raises
    ------
    ModelError
        There are none.
    """
    families = [family for family in posterior.spec.families if family.grouping == "population"]
    scales = read_scales(posterior.tree["scales"].to_dataset())
    reported = {  # populations with another one to be compared with, by scale
        Scale(family.name, population.diagnosis if family.split else "")
        for family in families
        if family.name in posterior.tree["effects"].children
        for population in read_populations(posterior.effect(family.name))
    }
    groups = {label: scale.group for label, scale in scales.items() if scale in reported}
    if not groups:
        raise ModelError(
            "The run has no sampling bias, so that nothing can be said about populations.",
            got=f"the model {posterior.spec.name!r} with {', '.join(scales)}",
            expected="a run of traveling_and_cohort, with people of several sites who did not travel",
            do="fit that model",
        )
    return groups


def _row(found: dict[str, Evidence], zero: np.ndarray) -> dict[str, float]:
    none = found["none"].log_evidence
    log_factor = {name: evidence.log_evidence - none for name, evidence in found.items()}
    weight = {name: PRIOR[name] * np.exp(value - max(log_factor.values())) for name, value in log_factor.items()}
    share, scale = found["some"].share, np.exp(found["some"].eta[:, zero].mean(1))
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
        "khat": max(evidence.khat for evidence in found.values()),
        "good": all(evidence.is_reliable for evidence in found.values()),
    }


def _predict(
    study: FitContext, teachers: TrainingFeatures, ratios: VarianceRatios, masks: Mapping[str, np.ndarray],
    evidences: Mapping[str, Mapping[str, Evidence]], progress: Progress,
) -> tuple[pd.DataFrame, dict[tuple[str, str], dict[str, Any]]]:  # fmt: skip
    """Leave out each participant, and the people of each site who did not travel, with sampling bias and without."""
    design, problem = study.design, study.problem
    some = np.unique(np.linspace(0, len(teachers.features) - 1, N_PREDICTED).astype(int))
    moments = Moments(*(part[:, some] for part in teachers.moments))
    values = standardized(study, teachers.features[some])

    scales = np.asarray(teachers.log_scales[:NODES_OF_PREDICTIONS, :, some])

    def predict(k: int, mask: np.ndarray, evidence: Evidence, folds: np.ndarray) -> Scores:
        nodes = np.where(mask[:, None] > 0, scales, LOG_NULL_SCALE)
        left = leave_group_out(problem, ratios, moments, values, nodes, arrange_folds(design, folds))
        hyper = evidence.eta.mean(0)[:, None], np.log(evidence.omega).mean(0)[:, None]
        prior = log_prior(quadratic_features(jnp.asarray(scales)), *hyper, problem.priors.feature_offset_sd, mask[:, None])[
            0
        ]
        weight = np.asarray(teachers.weights[k][:NODES_OF_PREDICTIONS, some] + prior)
        return score(weight, left, np.arange(folds.max() + 1))

    people, person = np.unique(design.participants.astype(str), return_inverse=True)
    whole, common = np.ones(len(scales[0])), next(iter(evidences.values()))["all"]
    of_people = predict(0, whole, common, person)
    rows, elpd = {}, {}
    for k, (name, mask) in enumerate(masks.items(), start=1):
        progress("predictions", k - 1, len(masks), name)
        sites, site = _sites(study, mask == 0)
        for what, labels, folds in (("sites", sites, site), ("participants", people, person)):
            several = of_people if what == "participants" else predict(0, whole, common, folds)
            one = predict(k, mask, evidences[name]["none"], folds)
            rows[name, what] = difference(several, one)
            elpd[name, what] = {
                "several populations": to_elpd(several, labels, what, NODES_OF_PREDICTIONS),
                "one population": to_elpd(one, labels, what, NODES_OF_PREDICTIONS),
            }
    progress("predictions", len(masks), len(masks), "")
    table = pd.DataFrame(rows).T.rename_axis(["family", "left_out"])
    return table.astype({"n": int, "n_features": int}), elpd


def _sites(study: FitContext, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sites of people with the sampling bias of some scales, and that of each scan; -1 of others."""
    design = study.design
    theirs = np.asarray(design.matrix[:, np.isin(design.column_scale, np.flatnonzero(zero))].sum(axis=1)).reshape(-1) > 0
    site = study.dataset.scans["site"].astype(str).to_numpy()[design.rows]
    sites = np.unique(site[theirs])
    return sites, np.where(theirs, np.searchsorted(sites, site), -1)
