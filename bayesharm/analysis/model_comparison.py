"""Which of two models predicts better what they have not seen: participants, visits and scanners that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayesharm.algorithms.random_streams import Stage, feature_keys
from bayesharm.analysis.null_scales import center_of
from bayesharm.analysis.predictive_scores import Scores, average_below, difference, reliability_warnings, score, to_elpd
from bayesharm.analysis.validation_schemes import Scheme, arrange_schemes
from bayesharm.conditional.leave_group_out import arrange_folds, leave_group_out
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError
from bayesharm.fitting.context import FitContext, load_fit_context
from bayesharm.inference.hyper_target import find_mode, plain_target
from bayesharm.inference.importance import log_importance_weights, log_prior, quadratic_features
from bayesharm.inference.placement import place_importance_samples
from bayesharm.likelihood.moments import Moments, Standardization
from bayesharm.likelihood.problem import to_coordinates
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.progress import Progress, no_progress
from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group

N_FEATURES, N_NODES = 256, 128
FEW = 10  # units, of which a standard error says little
BINS = 10  # of the histogram of probabilities
FAR = 3.0


@dataclass(frozen=True, eq=False)
class ModelComparison(Tables):
    """Two runs on the same data, compared by what they have not seen.

    Attributes
    ----------
    about : dict
        `runs`: what they are called; `models`; `n_features` that were predicted, of `of_features`; `folds`; `preview`.
    predictions : DataFrame by what was left out
        log predictive density of each run (`elpd_<run>`), summed over features and units (participants, visits, scanners):
        `difference`, its standard error `se` over `n` units, and the share of Pareto-k above 0.7, `khat_high`.
    units : DataFrame by what was left out and unit
        The difference, and the density of each run.
    checks : DataFrame by run and scanner
        Scans of participants who were left out against what was predicted: over scans and features, `mean` (0) and `sd` (1)
        of standardized residuals, the share `outside` the 90% interval (0.10), the share `far`, more than 3 sd away (0.003),
        and the histogram of the probability of less than what was measured, `pit_0` to `pit_9` (0.1 each).
    elpd : dict
        ``elpd[left out][run]`` for :func:`arviz.compare`.
    notes : tuple of str
    """

    about: dict[str, Any]
    predictions: pd.DataFrame
    units: pd.DataFrame
    checks: pd.DataFrame
    elpd: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_comparison(self)

    def verdicts(self) -> list[str]:
        """For each kind of what was left out, which run predicts better, and how sure that is."""
        one, other = self.about["runs"]
        sentences = []
        for what, row in self.predictions.iterrows():
            better = one if row.difference > 0 else other
            away = abs(row.difference) / row.se if row.se else 0.0
            sure = "" if away > 2 else "; that may be chance" if away > 1 else "; that is nothing"
            few = f" (of {row.n:.0f} only)" if row.n < FEW else ""
            sentences.append(f"{what}: {better} predicts better by {abs(row.difference):.1f} ± {row.se:.1f}{few}{sure}")
        return sentences


def compare_models(
    one: Posterior,
    other: Posterior,
    dataset: Dataset | None = None,
    *,
    names: tuple[str, str] | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare two runs on the same data by what they have not seen.

    Of each fold, hyperparameters (at their mode) and scales are learned from the other scans, and its scans predicted from
    these, all effects integrated out: exact conditional densities, averaged over importance nodes of the scales.
    Participants and visits (scans of a person on one scanner, of people seen on several) are predicted one by one, all scans
    of a scanner together. The noise ratio of scanners is as each run found it from all scans.

    Parameters
    ----------
    one, other : Posterior
    dataset : Dataset, optional
        That of the fits; by default it is read from where it was then.
    names : tuple of str, optional
        What the runs are called; default: their models.
    folds : int
    seed : int
        Of who is left out with whom, and of the features (256 at most) that are predicted.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        The runs are of different data, these are not there, or there is nobody to leave out.
    """
    if changed := [name for name in ("scans", "fingerprint") if one.run[name] != other.run[name]]:
        raise InputError(
            "The two runs are of different data, so that their predictions cannot be compared.",
            got=f"other {' and '.join('features' if name == 'fingerprint' else name for name in changed)}",
            expected="two runs of the same scans and features",
            do="fit both models to the same data",
        )
    if folds < 2:
        raise InputError("There must be two folds or more.", got=f"folds={folds}", expected="2 or more", do="leave it out")
    progress = progress or no_progress
    progress("comparing", 0, 1, "reading the data")
    first = load_fit_context(one, dataset)
    studies = (first, load_fit_context(other, first.dataset))
    called = names or _names(one, other)
    rng = np.random.default_rng([seed, Stage.SAMPLE])
    n_features = len(first.dataset.features.names)
    features = np.sort(rng.choice(n_features, min(n_features, N_FEATURES), replace=False))
    schemes, notes = arrange_schemes(studies, folds, rng)
    found: dict[str, dict[str, Scores]] = {what: {} for what in schemes}
    checks = []
    for name, posterior, study in zip(called, (one, other), studies, strict=True):
        progress("comparing", 0, len(schemes), f"nodes of {name}")
        predictor = _Predictor.of(posterior, study, features)
        for k, (what, scheme) in enumerate(schemes.items()):
            progress("comparing", k, len(schemes), f"{name}: {what}")
            scores, below = predictor.predict(scheme, below=what == "participants")
            found[what][name] = scores
            if below is not None:
                checks.append(_check(below, study).assign(run=name))
    progress("comparing", len(schemes), len(schemes), "")
    rows, units = {}, []
    for what, scheme in schemes.items():
        mine, theirs = (found[what][name] for name in called)
        total = {f"elpd_{name}": found[what][name].log_density.sum() for name in called}
        rows[what] = total | difference(mine, theirs)
        by_unit = {f"elpd_{name}": found[what][name].log_density.sum(1) for name in called}
        table = pd.DataFrame({"left_out": what, "unit": scheme.labels} | by_unit)
        units.append(table.assign(difference=table.iloc[:, 2] - table.iloc[:, 3]))
    predictions = pd.DataFrame(rows).T.rename_axis("left_out").astype({"n": int, "n_features": int})
    return ModelComparison(
        about={
            "runs": list(called),
            "models": [one.spec.name, other.spec.name],
            "n_features": len(features),
            "of_features": n_features,
            "folds": folds,
            "preview": bool(one.preview_notice or other.preview_notice),
        },
        predictions=predictions,
        units=pd.concat(units).set_index(["left_out", "unit"]),
        checks=pd.concat(checks or [pd.DataFrame(columns=["run", "scanner"])]).set_index(["run", "scanner"]),
        elpd={
            what: {name: to_elpd(found[what][name], scheme.labels, what, N_NODES) for name in called}
            for what, scheme in schemes.items()
        },
        notes=(*filter(None, [one.preview_notice or other.preview_notice]), *notes, *reliability_warnings(predictions)),
    )


def _names(one: Posterior, other: Posterior) -> tuple[str, str]:
    names = one.spec.name, other.spec.name
    return names if names[0] != names[1] else (f"{names[0]} a", f"{names[1]} b")


@dataclass(frozen=True, eq=False)
class _Predictor:
    """Importance nodes of some features of one run."""

    study: FitContext
    ratios: VarianceRatios
    center: np.ndarray
    moments: Moments
    standard: Standardization
    values: np.ndarray
    log_scales: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, posterior: Posterior, study: FitContext, features: np.ndarray) -> _Predictor:
        problem = study.problem
        ratios = posterior.variance_ratios()
        center, eta_sd = center_of(posterior, problem.priors.omega_floor)
        with study.devices.in_use("float64"):
            moments, standard = study.moments(features)
            start = to_coordinates(
                problem.participant_scale, jnp.repeat(jnp.asarray(center[0])[:, None], len(features), axis=1)
            )
            keys = feature_keys(study.seed, Stage.IMPORTANCE, features)
            nodes, _ = place_importance_samples(problem, moments, center.ravel(), eta_sd, ratios, keys, N_NODES, (start,))
            weight = np.asarray(log_importance_weights(problem, ratios, moments, nodes))
        values = (study.values(features) - standard.center) / standard.sd
        return cls(study, ratios, center, moments, standard, values, np.asarray(nodes.log_scales), weight)

    def predict(self, scheme: Scheme, below: bool) -> tuple[Scores, np.ndarray | None]:
        """Scores of units in the features' own units, and if wanted the probability of less than each scan."""
        design, problem = self.study.design, self.study.problem
        folds, units = scheme.folds[design.rows], scheme.units[design.rows]
        n_scans = np.bincount(units[units >= 0])
        fold_of_unit = np.zeros(len(n_scans), int)
        fold_of_unit[units[units >= 0]] = folds[units >= 0]
        with self.study.devices.in_use("float64"):
            held = arrange_folds(design, folds, units)
            left = leave_group_out(problem, self.ratios, self.moments, self.values, self.log_scales, held, below)
            basis = quadratic_features(jnp.asarray(self.log_scales))
            weights = []
            for fold in range(folds.max() + 1):
                told = jnp.asarray(self.weight - left.folds[:, fold])  # by the others
                start = jnp.asarray(self.center.reshape(-1, 1))
                target = plain_target(problem.log_medians, basis, told)
                mode = np.asarray(find_mode(problem.priors, target, start).mode)
                eta, log_excess = np.split(mode, 2)
                log_omega = 0.5 * np.log(np.exp(2 * log_excess) + problem.priors.omega_floor**2)
                prior = log_prior(basis, eta, log_omega, problem.priors.feature_offset_sd)[0]
                weights.append(self.weight + np.asarray(prior))
        weight = np.stack(weights)
        scores = score(weight, left, fold_of_unit)
        scores = scores._replace(log_density=scores.log_density - n_scans[:, None] * np.log(self.standard.sd))
        return scores, average_below(weight, left, folds) if below else None


def _check(below: np.ndarray, study: FitContext) -> pd.DataFrame:
    """How what was measured lies within what was predicted, by scanner."""
    design, rows = study.design, []
    scanner = design.class_scanner[design.scan_class]
    for k, name in enumerate(design.scanners):
        p = below[scanner == k]
        p = p[np.isfinite(p)]
        if not len(p):
            continue
        z = ndtri(np.clip(p, 1e-7, 1 - 1e-7))
        pit = np.histogram(p, BINS, (0, 1))[0] / len(p)
        rows.append(
            {"scanner": name, "n": len(p), "mean": z.mean(), "sd": z.std(), "outside": ((p < 0.05) | (p > 0.95)).mean(),
             "far": (abs(z) > FAR).mean()} | {f"pit_{bin}": share for bin, share in enumerate(pit)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def render_comparison(found: ModelComparison) -> Group:
    """What each run predicts, which is better, and how predictions fit the scans of each scanner."""
    from rich.console import Group

    about, (one, other) = found.about, found.about["runs"]
    table = make_table(
        f"{one} against {other}",
        f"Log predictive density of what was left out, {about['folds']} folds, summed over {about['n_features']:,} of "
        f"{about['of_features']:,} features. Positive differences: the first is better; se over what was left out.",
        ["left out", "number", one, other, "difference", "se"],
    )
    for what, row in found.predictions.iterrows():
        values = (f"{row[name]:,.1f}" for name in (f"elpd_{one}", f"elpd_{other}", "difference", "se"))
        table.add_row(str(what), f"{row.n:.0f}", *values)
    checks = make_table(
        "Scans of people left out, against what was predicted",
        "Standardized residuals over scans and features: mean (0 if all is well), sd (1), share outside the 90% interval "
        "(10%), and more than 3 sd away (0.3%).",
        ["run", "scanner", "mean", "sd", "outside", "far"],
    )
    for (run, scanner), row in found.checks.iterrows():
        away = f"{row['mean']:+.2f}", f"{row.sd:.2f}", f"{row.outside:.1%}", f"{row.far:.1%}"
        checks.add_row(str(run), str(scanner), *away)
    return Group(table, checks, bullets("Verdict", found.verdicts()), bullets("Beware", found.notes))
