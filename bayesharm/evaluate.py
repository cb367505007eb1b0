"""How well methods harmonize people and visits that they have not seen, on a study of one's own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bayesharm import measures
from bayesharm.baselines import Applied, Fitted, available_methods, get_method
from bayesharm.dataset import Dataset
from bayesharm.display import as_text
from bayesharm.errors import BayesharmError, InputError, shorten
from bayesharm.fit import fit
from bayesharm.harmonize import harmonize
from bayesharm.measures import Measure
from bayesharm.posterior import Posterior
from bayesharm.predict import predict
from bayesharm.spec import ModelSpec
from bayesharm.splits import split_people, split_visits
from bayesharm.table_files import Tables
from bayesharm.verdict import render_evaluation, say_verdict

if TYPE_CHECKING:
    from rich.console import Group

OURS = "bayesharm"
LEAST = 0.5  # of the scans that a method must be able to correct to be compared
MORE = ("share_removed", "icc", "identification", "visit_coverage")  # is better; of other measures less is
Report = Callable[[str, int, int, str], None]
Found = dict[str, dict[str, list[Measure]]]  # by measure, then by method


@dataclass(frozen=True, eq=False)
class Evaluation(Tables):
    """What methods do for scans that they have not seen.

    Attributes
    ----------
    measures : DataFrame
        By ``measure`` and ``method``: ``value``, ``se`` (jackknife over people), ``chance`` where there is one, ``better``
        (how much better than bayesharm: positive is better) and ``better_se``, ``n_scans`` and ``n_features``.
    methods : DataFrame
        By ``method``: ``seconds`` of a fit in the mean, and ``notes``: what it could not use or correct.
    about : dict
        The study, and how it was divided.
    verdict : tuple of str
        What that says, in words.
    """

    measures: pd.DataFrame
    methods: pd.DataFrame
    about: dict[str, Any]
    verdict: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_evaluation(self)


@dataclass(frozen=True, eq=False)
class BayesFitted:
    """A posterior under the interface of the other methods."""

    posterior: Posterior

    @property
    def bias(self) -> pd.DataFrame:
        return self._table("mean")

    @property
    def sd(self) -> pd.DataFrame:
        """Posterior sd of `bias`."""
        return self._table("sd")

    def _table(self, what: str) -> pd.DataFrame:
        return self.posterior.effect(self.posterior.spec.removes)[what].to_pandas()

    @property
    def scanners(self) -> tuple[str, ...]:
        return tuple(self.posterior.scanners)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def apply(self, dataset: Dataset) -> Applied:
        known = np.flatnonzero(dataset.scans["scanner"].isin(self.scanners))
        values, sd = np.full((2, len(dataset.scans), dataset.features.n_features), np.nan)
        if len(known):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a preview, again and again
                found = harmonize(self.posterior, dataset.take(known))
            values[known], sd[known] = found.mean, found.sd
        return Applied(values, sd)


def evaluate(
    dataset: Dataset,
    methods: Sequence[str] | None = None,
    *,
    model: str | ModelSpec = "traveling_and_cohort",
    covariates: Sequence[str] = (),
    reference: str | None = None,
    folds: int = 2,
    repeats: int = 2,
    visit_folds: int = 6,
    preview: bool = False,
    seed: int = 0,
    report: Report | None = None,
    **settings: Any,
) -> Evaluation:
    """Leave people out, and visits, fit every method to the rest, and measure what it does for those.

    *People*: each half (or other part) of the people is harmonized by models of the others, travelers and those scanned once
    alike; measures are of one fit at a time, and then averaged. *Visits*: those of travelers are left out in turn, and
    predicted from the same person's scans on other scanners.

    Parameters
    ----------
    dataset : Dataset
        With people who traveled.
    methods : sequence of str, optional
        Names of :data:`bayesharm.baselines.METHODS` and `bayesharm`; by default all that can be run here.
    model, reference
        Of :func:`bayesharm.fit`.
    covariates : sequence of str
        Columns whose effects are to be preserved; diagnosis is one where the table has it.
    folds : int
        Parts of the people. Measures that need many people at once (identification, accuracy of a classifier) suffer from
        many parts, as what is learned suffers from few.
    repeats : int
        How often people are divided anew.
    visit_folds : int
        Parts of the visits, at most as many as somebody has.
    preview : bool
        Fit bayesharm by its approximation: quicker.
    seed : int
        Of divisions and fits.
    report : callable, optional
        Told about progress.
    **settings
        Of :func:`bayesharm.fit`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        Too few people traveled, or a method or covariate is unknown.
    """
    tell = report or (lambda *event: None)
    preserved = [*dict.fromkeys([*(["diagnosis"] if _several(dataset.scans, "diagnosis") else []), *covariates])]
    if absent := [name for name in preserved if name not in dataset.scans]:
        raise InputError(
            f"The scans table has no covariate {shorten(absent)}.",
            got=f"columns {shorten(dataset.scans.columns, 30)}",
            expected="covariates that are columns",
            do="correct the covariates",
        )
    wanted = list(methods) if methods is not None else [*available_methods(), OURS]
    fitters = {name: None if name == OURS else get_method(name).fit for name in wanted}
    options = {"model": model, "reference": reference, "preview": preview, "seed": seed, **settings}
    own = [name for name in preserved if name != "diagnosis"]

    def fit_method(name: str, train: Dataset) -> Fitted:
        if (fitter := fitters[name]) is not None:
            return fitter(train, preserved)
        return BayesFitted(fit(train, covariates=own, **options))

    rng, work = np.random.default_rng(seed), _Work(dataset, fit_method, wanted, preserved, reference or "HC")
    n_parts = repeats * folds + visit_folds
    for repeat in range(repeats):
        fold = split_people(dataset.scans, folds, rng)
        for k in range(folds):
            tell("people left out", repeat * folds + k, n_parts, "")
            work.leave_people_out(fold == k)
    fold = split_visits(dataset.scans, visit_folds, rng)
    for k in range(visit_folds):
        tell("visits left out", repeats * folds + k, n_parts, "")
        work.leave_visits_out(fold == k)
    tell("visits left out", n_parts, n_parts, "done")
    table, by_method = work.tables()
    about = {
        "n_scans": len(dataset.scans), "n_features": dataset.features.n_features, "folds": folds, "repeats": repeats,
        "visit_folds": visit_folds, "covariates": preserved, "preview": preview,
    }  # fmt: skip
    return Evaluation(table, by_method, about, say_verdict(table, by_method, about))


def _several(scans: pd.DataFrame, name: str) -> bool:
    return name in scans and scans[name].nunique() > 1


class Corrected(NamedTuple):
    """Values of one method for all scans, and what it multiplied them by; (scan, feature) both."""

    values: np.ndarray
    factor: np.ndarray


class _Work:
    """Fits of methods to parts of a study, and measures of what they do for the rest."""

    def __init__(
        self,
        dataset: Dataset,
        fit_method: Callable[[str, Dataset], Fitted],
        methods: Sequence[str],
        covariates: Sequence[str],
        reference: str,
    ) -> None:
        self.dataset, self.fit_method, self.methods = dataset, fit_method, list(methods)
        self.covariates, self.reference = list(covariates), reference
        self.raw = dataset.features.read(0, dataset.features.n_features)
        self.centre, self.unit = self.raw.mean(0), self.raw.std(0)
        self.found: Found = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in methods}
        self.notes: dict[str, dict[str, None]] = {name: {} for name in methods}  # in order, each once

    def _fit(self, train: np.ndarray) -> dict[str, Fitted]:
        """Every method, fitted to some scans; one that cannot be is told and left out."""
        some, fitted = self.dataset.take(np.flatnonzero(train)), {}
        for name in self.methods:
            start = time.perf_counter()
            try:
                fitted[name] = self.fit_method(name, some)
            except BayesharmError as error:
                self.notes[name][f"could not be fitted: {error.what}"] = None
                continue
            self.seconds[name].append(time.perf_counter() - start)
            self.notes[name] |= dict.fromkeys(fitted[name].notes)
        return fitted

    def _apply(self, fitted: dict[str, Fitted], rows: np.ndarray) -> dict[str, Corrected]:
        """Corrected values of some scans, in a table of all; NaN for scans that one of the methods could not correct."""
        some, found = self.dataset.take(np.flatnonzero(rows)), {}
        for name, method in fitted.items():
            applied = method.apply(some)
            there = np.isfinite(applied.values).any(1)
            self.notes[name] |= dict.fromkeys(applied.notes)
            if not there.all():
                lost = some.scans["scanner"][~there]
                self.notes[name][f"could not correct scans of {shorten(sorted(lost.unique()))}"] = None
            if there.mean() >= LEAST:
                found[name] = Corrected(np.full(self.raw.shape, np.nan), np.ones(self.raw.shape))
                found[name].values[rows] = applied.values
                if applied.factor is not None:
                    found[name].factor[rows] = applied.factor
        lacking = np.any([~np.isfinite(own.values).any(1) for own in found.values()], axis=0)
        for own in found.values():
            own.values[lacking] = np.nan
        return found

    def _errors(self, own: Corrected) -> np.ndarray:
        """What each scan differs from what the person's other scanners say of it, as its scanner would have measured it."""
        return measures.difference_from_others(own.values, self.dataset.scans) / own.factor

    def _add(self, measure: str, method: str, found: Measure) -> None:
        self.found.setdefault(measure, {}).setdefault(method, []).append(found)

    def leave_people_out(self, out: np.ndarray) -> None:
        """One part of the people."""
        scans, unit = self.dataset.scans, self.unit
        values = self._apply(self._fit(~out), out)
        raw = np.where(np.isfinite(next(iter(values.values())).values).any(1)[:, None], self.raw, np.nan)
        repeats = scans[out].duplicated(["participant_id", "scanner"]).any()
        floor = measures.noise_floor(raw, scans, of="repeats" if repeats else "residual", unit=unit)
        none = measures.between_scanner_sd(raw, scans, unit=unit)
        for name, corrected in values.items():
            own = corrected.values
            between = measures.between_scanner_sd(own, scans, unit=unit)
            self._add("between_scanner_sd", name, between)
            self._add("share_removed", name, measures.share_removed(none, between, floor))
            self._add("icc", name, measures.participant_icc(own, scans))
            self._add("identification", name, measures.identification_rate(own, scans, centre=self.centre, unit=unit))
            travels = np.where(self._travels(scans)[:, None], own, np.nan)
            self._add("scanner_accuracy", name, measures.scanner_accuracy(travels, scans, unit=unit))
            self._add("prediction_rmse", name, measures.prediction_rmse(self._errors(corrected), scans, unit=unit))
            self._add_effects(name, own, raw)
        self._add("noise_floor", "", floor)

    @staticmethod
    def _travels(scans: pd.DataFrame) -> np.ndarray:
        return (scans.groupby("participant_id")["scanner"].transform("nunique") > 1).to_numpy()

    def _add_effects(self, name: str, own: np.ndarray, raw: np.ndarray) -> None:
        if not self.covariates:
            return
        try:
            effects = measures.effect_preservation(
                own, self.dataset.scans, self.covariates, raw=raw, reference=self.reference, unit=self.unit
            )
        except InputError as error:
            self.notes[name][f"effects of covariates: {error.what}"] = None
            return
        for covariate, found in effects.items():
            self._add(f"slope of {covariate}", name, found.slope)
            self._add(f"change of {covariate}", name, found.rms_difference)

    def leave_visits_out(self, out: np.ndarray) -> None:
        """One part of the visits, predicted from the same people's other scans."""
        if not out.any():
            return
        scans = self.dataset.scans
        people = scans["participant_id"].isin(scans["participant_id"][out]).to_numpy()
        fitted = self._fit(~out)
        for name, own in self._apply(fitted, people).items():
            errors = np.where(out[:, None], self._errors(own), np.nan)
            self._add("visit_rmse", name, measures.prediction_rmse(errors, scans, unit=self.unit))
        ours = fitted.get(OURS)
        if isinstance(ours, BayesFitted):
            mean, sd = np.full((2, *self.raw.shape), np.nan)
            expected = predict(ours.posterior, scans[out].reset_index(drop=True))
            place = pd.Index(ours.posterior.features).get_indexer(pd.Index(self.dataset.features.names))
            mean[out], sd[out] = expected.mean[:, place], expected.sd[:, place]
            rmse = measures.prediction_rmse(self.raw - mean, scans, unit=self.unit)
            self._add("visit_rmse", f"{OURS}, its own prediction", rmse)
            self._add("visit_coverage", f"{OURS}, its own prediction", measures.interval_coverage(self.raw, mean, sd, scans))

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measures, averaged over parts, and what is to be said of each method."""
        rows = []
        for measure, by_method in self.found.items():
            averages = {name: measures.average(*parts) for name, parts in by_method.items()}
            ours = averages.get(OURS)
            for name, one in averages.items():
                row = {"measure": measure, "method": name, "value": one.value, "se": one.se, "chance": one.chance,
                       "better": np.nan, "better_se": np.nan}  # fmt: skip
                same = len(by_method[name]) == len(by_method.get(OURS, []))
                if ours is not None and same and name != OURS and not measure.startswith("slope"):
                    gap = measures.difference(one, ours) if measure in MORE else measures.difference(ours, one)
                    row |= {"better": gap.value, "better_se": gap.se}
                rows.append(row | {"n_scans": one.n_scans, "n_features": one.n_features})
        table = pd.DataFrame(rows).set_index(["measure", "method"])
        by_method = pd.DataFrame({
            "seconds": {name: np.mean(parts) if parts else np.nan for name, parts in self.seconds.items()},
            "notes": {name: " ".join(notes) for name, notes in self.notes.items()},
        }).rename_axis("method")  # fmt: skip
        return table, by_method

