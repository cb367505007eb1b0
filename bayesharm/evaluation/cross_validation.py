"""Methods on trial: fitted to a part of a study, applied to the rest, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from bayesharm.baselines import Fitted
from bayesharm.data.dataset import Dataset
from bayesharm.data.scans import find_travelers
from bayesharm.errors import BayesharmError, InputError, shorten
from bayesharm.evaluation import metrics as measures
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.evaluation.metrics import JackknifeEstimate
from bayesharm.harmonization.prediction import predict

BAYESHARM = "bayesharm"
OWN_PREDICTION, EQUAL_NOISE = f"{BAYESHARM}, own prediction", f"{BAYESHARM}, equal noise"
LEAST = 0.5  # of the scans that a method must be able to correct to be compared
MORE = ("icc", "identification")  # is better
MANY_REPEATS = 10  # second scans on a scanner, from which noise can be told
Found = dict[str, dict[str, list[JackknifeEstimate]]]  # by measure, then by method


def _goodness(measure: str, found: JackknifeEstimate) -> JackknifeEstimate:
    """What is larger the better a method is: of shares and accuracies, how near they are to all and to chance."""
    if measure in MORE:
        return found
    wanted = {"share_removed": 1.0, "visit_coverage": 0.9, "scanner_accuracy": found.chance}.get(measure, 0.0)
    return measures.combine(lambda value: -abs(value - wanted), found)


class Corrected(NamedTuple):
    """Values of one method for all scans, and what it multiplied them by; (scan, feature) both."""

    values: np.ndarray
    factor: np.ndarray


class CrossValidation:
    """Fits of methods to parts of a study, and measures of what they do for the rest.

    Parameters
    ----------
    dataset : Dataset
    fit_method : callable
        Of the name of a method and of scans, which it fits.
    methods, covariates : sequence of str
    reference : str
        The diagnosis that others are compared with.
    """

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
        self.center, self.unit = self.raw.mean(0), self.raw.std(0)
        travels, visit = find_travelers(dataset.scans), ["participant_id", "scanner"]
        self.travels = travels
        self.scans = dataset.scans.assign(traveling=travels)  # also with one visit in what is learned from
        many = dataset.scans[travels].duplicated(visit).sum() >= MANY_REPEATS
        self.floor: Literal["repeats", "residual"] = "repeats" if many else "residual"
        self.found: Found = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in methods}
        self.notes: dict[str, dict[str, None]] = {name: {} for name in [*methods, EQUAL_NOISE]}  # in order, each once

    def _fit(self, train: np.ndarray) -> dict[str, Fitted]:
        """Every method, fitted to some scans; one that cannot be is told and left out."""
        some, fitted = replace(self.dataset, scans=self.scans).take(np.flatnonzero(train)), {}
        for name in self.methods:
            start = time.perf_counter()
            try:
                fitted[name] = self.fit_method(name, some)
            except BayesharmError as error:
                self.notes[name][f"could not be fitted: {error.what}"] = None
                continue
            self.seconds[name].append(time.perf_counter() - start)
            self.notes[name] |= dict.fromkeys(fitted[name].notes)
        ours = fitted.get(BAYESHARM)
        if isinstance(ours, BayesFitted) and ours.posterior.spec.noise_ratio == "scanner":
            fitted[EQUAL_NOISE] = replace(ours, options=replace(ours.options, match_noise=True))
        return fitted

    def _apply(self, fitted: dict[str, Fitted], rows: np.ndarray) -> dict[str, Corrected]:
        """Corrected values of some scans, in a table of all; NaN for scans that one of the methods could not correct."""
        some, found = self.dataset.take(np.flatnonzero(rows)), {}
        for name, method in fitted.items():
            try:
                applied = method.apply(some)
            except BayesharmError as error:
                if name != EQUAL_NOISE:
                    raise
                self.notes[name][f"could not be applied: {error.what}"] = None  # it alone asks for their covariates
                continue
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

    def _add(self, measure: str, method: str, found: JackknifeEstimate) -> None:
        self.found.setdefault(measure, {}).setdefault(method, []).append(found)

    def leave_people_out(self, out: np.ndarray) -> None:
        """One part of the people."""
        scans, unit = self.dataset.scans, self.unit
        if not (values := self._apply(self._fit(~out), out)):
            return
        raw = np.where(np.isfinite(next(iter(values.values())).values).any(1)[:, None], self.raw, np.nan)
        self._add("noise_floor", "", measures.noise_floor(raw, scans, of=self.floor, unit=unit))
        self._add("uncorrected_sd", "", measures.between_scanner_sd(raw, scans, unit=unit))
        for name, corrected in values.items():
            own = corrected.values
            self._add("between_scanner_sd", name, measures.between_scanner_sd(own, scans, unit=unit))
            self._add("icc", name, measures.participant_icc(own, scans))
            self._add("identification", name, measures.identification_rate(own, scans, center=self.center, unit=unit))
            traveled = np.where(self.travels[:, None], own, np.nan)
            self._add("scanner_accuracy", name, measures.scanner_accuracy(traveled, scans, unit=unit))
            self._add("prediction_rmse", name, measures.prediction_rmse(self._errors(corrected), scans, unit=unit))
            self._add_effects(name, own, raw)

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
        values = self._apply(fitted, people)
        for name, own in values.items():
            errors = np.where(out[:, None], self._errors(own), np.nan)
            self._add("visit_rmse", name, measures.prediction_rmse(errors, scans, unit=self.unit))
        ours = fitted.get(BAYESHARM)
        if isinstance(ours, BayesFitted) and BAYESHARM in values:
            mean, sd = np.full((2, *self.raw.shape), np.nan)
            told = out & np.isfinite(values[BAYESHARM].values).any(1)  # what no method lacks
            expected = predict(ours.posterior, self.scans[told].reset_index(drop=True))
            place = pd.Index(ours.posterior.features).get_indexer(pd.Index(self.dataset.features.names))
            mean[told], sd[told] = expected.mean[:, place], expected.sd[:, place]
            rmse = measures.prediction_rmse(self.raw - mean, scans, unit=self.unit)
            self._add("visit_rmse", OWN_PREDICTION, rmse)
            self._add("visit_coverage", OWN_PREDICTION, measures.interval_coverage(self.raw, mean, sd, scans))

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measures, averaged over parts, and what is to be said of each method."""
        rows = []
        found = {
            measure: {name: measures.average(*parts) for name, parts in by_method.items()}
            for measure, by_method in self.found.items()
        }
        if "between_scanner_sd" in found:
            raw, floor = found.pop("uncorrected_sd")[""], found["noise_floor"][""]
            shares = {name: measures.share_removed(raw, sd, floor) for name, sd in found["between_scanner_sd"].items()}
            found["share_removed"] = shares
        for measure, averages in found.items():
            ours = averages.get(BAYESHARM)
            for name, one in averages.items():
                row = {"measure": measure, "method": name, "value": one.value, "se": one.se, "chance": one.chance,
                       "better": np.nan, "better_se": np.nan}  # fmt: skip
                comparable = name != BAYESHARM and not measure.startswith("slope")
                if ours is not None and comparable and np.array_equal(ours.scan_mask, one.scan_mask):
                    gap = measures.difference(_goodness(measure, one), _goodness(measure, ours))
                    row |= {"better": gap.value, "better_se": gap.se}
                rows.append(row | {"n_scans": one.n_scans, "n_features": one.n_features})
        table = pd.DataFrame(rows).set_index(["measure", "method"])
        by_method = pd.DataFrame({
            "seconds": {name: np.mean(parts) if parts else np.nan for name, parts in self.seconds.items()},
            "notes": {name: " ".join(notes) for name, notes in self.notes.items() if notes or name != EQUAL_NOISE},
        }).rename_axis("method")  # fmt: skip
        return table, by_method
