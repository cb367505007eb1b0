"""Evaluation of methods fold by fold: fit to a part of a study, apply to the rest, measure the result."""

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
from bayesharm.evaluation import metrics
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.evaluation.metrics import JackknifeEstimate
from bayesharm.evaluation.result import BAYESHARM, MATCHED_GAIN, MATCHED_NOISE, MODEL_PREDICTION
from bayesharm.harmonization.prediction import predict

MIN_CORRECTED = 0.5  # share of the scans that a method must correct to be compared
MIN_REPEATS = 10  # second scans of a traveler on the same scanner from which noise is estimated without a model
LARGER_IS_BETTER = ("icc", "identification")
IDEAL = {"share_removed": 1.0, "visit_coverage": 0.9}  # of measures whose best value is neither 0 nor the largest
Measures = dict[str, dict[str, list[JackknifeEstimate]]]  # by measure, then by method; one for each fold


class Corrected(NamedTuple):
    """Scans corrected by one method, and the factor by which the method multiplied them; both (scan, feature)."""

    values: np.ndarray
    factor: np.ndarray


class FoldEvaluation:
    """Fits of methods to the training scans of each fold, and measures on the held-out scans.

    Parameters
    ----------
    dataset : Dataset
    fit_method : callable
        Fits the method of this name to a dataset.
    methods, covariates : sequence of str
    reference : str
        Reference diagnosis.

    Attributes
    ----------
    measures : dict
        ``measures[measure][method]``, one :class:`JackknifeEstimate` for each fold.
    seconds : dict
        Times of the fits of each method.
    notes : dict
        Scans and fits that each method could not do; each note once, in order.
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
        self.center, self.feature_sd = self.raw.mean(0), self.raw.std(0)
        self.travels = find_travelers(dataset.scans)
        # travelers stay travelers in the training scans, also if only one of their visits is among these
        self.scans = dataset.scans.assign(traveling=self.travels)
        n_repeats = dataset.scans[self.travels].duplicated(["participant_id", "scanner"]).sum()
        self.noise_from: Literal["repeats", "residual"] = "repeats" if n_repeats >= MIN_REPEATS else "residual"
        self.measures: Measures = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in methods}
        self.notes: dict[str, dict[str, None]] = {name: {} for name in [*methods, MATCHED_NOISE, MATCHED_GAIN]}

    def leave_people_out(self, held_out: np.ndarray) -> None:
        """Evaluate all methods on held-out people, (scan,) bool."""
        scans, sd = self.dataset.scans, self.feature_sd
        if not (corrected := self._apply(self._fit(~held_out), held_out)):
            return
        is_corrected = np.isfinite(next(iter(corrected.values())).values).any(1)
        raw = np.where(is_corrected[:, None], self.raw, np.nan)
        self._add("noise_floor", "", metrics.noise_floor(raw, scans, of=self.noise_from, unit=sd))
        self._add("uncorrected_sd", "", metrics.between_scanner_sd(raw, scans, unit=sd))
        for name, method in corrected.items():
            values = method.values
            self._add("between_scanner_sd", name, metrics.between_scanner_sd(values, scans, unit=sd))
            self._add("icc", name, metrics.participant_icc(values, scans))
            self._add("identification", name, metrics.identification_rate(values, scans, center=self.center, unit=sd))
            of_travelers = np.where(self.travels[:, None], values, np.nan)
            self._add("scanner_accuracy", name, metrics.scanner_accuracy(of_travelers, scans, unit=sd))
            self._add("prediction_rmse", name, metrics.prediction_rmse(self._errors(method), scans, unit=sd))
            self._add_effects(name, values, raw)

    def leave_visits_out(self, held_out: np.ndarray) -> None:
        """Evaluate the prediction of held-out visits, (scan,) bool, from the same people's other scans."""
        if not held_out.any():
            return
        scans = self.dataset.scans
        people = scans["participant_id"].isin(scans["participant_id"][held_out]).to_numpy()
        fitted = self._fit(~held_out)
        corrected = self._apply(fitted, people)
        for name, method in corrected.items():
            errors = np.where(held_out[:, None], self._errors(method), np.nan)
            self._add("visit_rmse", name, metrics.prediction_rmse(errors, scans, unit=self.feature_sd))
        bayesharm = fitted.get(BAYESHARM)
        if isinstance(bayesharm, BayesFitted) and BAYESHARM in corrected:
            self._add_model_prediction(bayesharm, held_out & np.isfinite(corrected[BAYESHARM].values).any(1))

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the measures averaged over folds, and the time and notes of each method."""
        averages = {
            measure: {name: metrics.average(*folds) for name, folds in _in_all_folds(by_method).items()}
            for measure, by_method in self.measures.items()
        }
        if "between_scanner_sd" in averages:
            raw, floor = averages.pop("uncorrected_sd")[""], averages["noise_floor"][""]
            shares = {name: metrics.share_removed(raw, sd, floor) for name, sd in averages["between_scanner_sd"].items()}
            averages["share_removed"] = shares
        rows = []
        for measure, by_method in averages.items():
            bayesharm = by_method.get(BAYESHARM)
            for name, value in by_method.items():
                row = {"measure": measure, "method": name, "value": value.value, "se": value.se, "chance": value.chance,
                       "better": np.nan, "better_se": np.nan}  # fmt: skip
                is_comparable = name != BAYESHARM and not measure.startswith("slope")
                if bayesharm is not None and is_comparable and np.array_equal(bayesharm.scan_mask, value.scan_mask):
                    gain = metrics.difference(_goodness(measure, value), _goodness(measure, bayesharm))
                    row |= {"better": gain.value, "better_se": gain.se}
                rows.append(row | {"n_scans": value.n_scans, "n_features": value.n_features})
        table = pd.DataFrame(rows).set_index(["measure", "method"])
        methods = pd.DataFrame({
            "seconds": {name: np.mean(fits) if fits else np.nan for name, fits in self.seconds.items()},
            "notes": {name: " ".join(notes) for name, notes in self.notes.items() if notes or name in self.methods},
        }).rename_axis("method")  # fmt: skip
        return table, methods

    def _fit(self, is_training: np.ndarray) -> dict[str, Fitted]:
        """Fit every method to the training scans; note and leave out a method that cannot be fitted."""
        training, fitted = replace(self.dataset, scans=self.scans).take(np.flatnonzero(is_training)), {}
        for name in self.methods:
            start = time.perf_counter()
            try:
                fitted[name] = self.fit_method(name, training)
            except BayesharmError as error:
                self.notes[name][f"could not be fitted: {error.brief}"] = None
                continue
            self.seconds[name].append(time.perf_counter() - start)
            self.notes[name] |= dict.fromkeys(fitted[name].notes)
        bayesharm = fitted.get(BAYESHARM)
        if isinstance(bayesharm, BayesFitted) and bayesharm.posterior.spec.noise_ratio != "homogeneous":
            fitted[MATCHED_NOISE] = replace(bayesharm, options=replace(bayesharm.options, match_noise=True))
        if isinstance(bayesharm, BayesFitted) and bayesharm.posterior.spec.gain == "scanner":
            fitted[MATCHED_GAIN] = replace(bayesharm, options=replace(bayesharm.options, match_gain=True))
        return fitted

    def _apply(self, fitted: dict[str, Fitted], rows: np.ndarray) -> dict[str, Corrected]:
        """Correct some scans by every method, in arrays of all scans; NaN for scans that any method could not correct."""
        subset, corrected = self.dataset.take(np.flatnonzero(rows)), {}
        for name, method in fitted.items():
            try:
                applied = method.apply(subset)
            except BayesharmError as error:
                if name != MATCHED_NOISE:
                    raise
                # it alone needs the covariates of the held-out scans
                self.notes[name][f"could not be applied: {error.brief}"] = None
                continue
            is_corrected = np.isfinite(applied.values).any(1)
            self.notes[name] |= dict.fromkeys(applied.notes)
            if not is_corrected.all():
                scanners = subset.scans["scanner"][~is_corrected]
                self.notes[name][f"could not correct scans of {shorten(sorted(scanners.unique()))}"] = None
            if is_corrected.mean() >= MIN_CORRECTED:
                corrected[name] = Corrected(np.full(self.raw.shape, np.nan), np.ones(self.raw.shape))
                corrected[name].values[rows] = applied.values
                if applied.factor is not None:
                    corrected[name].factor[rows] = applied.factor
        is_missing = np.any([~np.isfinite(each.values).any(1) for each in corrected.values()], axis=0)
        for each in corrected.values():
            each.values[is_missing] = np.nan
        return corrected

    def _errors(self, corrected: Corrected) -> np.ndarray:
        """Return each scan minus its prediction from the person's other scanners, in the units that its scanner measures."""
        return metrics.difference_from_others(corrected.values, self.dataset.scans) / corrected.factor

    def _add(self, measure: str, method: str, value: JackknifeEstimate) -> None:
        self.measures.setdefault(measure, {}).setdefault(method, []).append(value)

    def _add_effects(self, name: str, values: np.ndarray, raw: np.ndarray) -> None:
        """Add the preservation of covariate effects by one method."""
        if not self.covariates:
            return
        try:
            effects = metrics.effect_preservation(
                values, self.dataset.scans, self.covariates, raw=raw, reference=self.reference, unit=self.feature_sd
            )
        except InputError as error:
            self.notes[name][f"effects of covariates: {error.brief}"] = None
            return
        for covariate, effect in effects.items():
            self._add(f"slope of {covariate}", name, effect.slope)
            self._add(f"change of {covariate}", name, effect.rms_difference)

    def _add_model_prediction(self, fitted: BayesFitted, held_out: np.ndarray) -> None:
        """Add the error and the interval coverage of bayesharm's own predictions of the raw scans."""
        mean, sd = np.full((2, *self.raw.shape), np.nan)
        try:
            prediction = predict(fitted.posterior, self.scans[held_out].reset_index(drop=True))
        except InputError as error:  # a visit is outside of the range of a spline in the training scans, for example
            self.notes[BAYESHARM][f"could not predict held-out visits: {error.brief}"] = None
            return
        columns = pd.Index(fitted.posterior.features).get_indexer(pd.Index(self.dataset.features.names))
        mean[held_out], sd[held_out] = prediction.mean[:, columns], prediction.sd[:, columns]
        scans = self.dataset.scans
        rmse = metrics.prediction_rmse(self.raw - mean, scans, unit=self.feature_sd)
        self._add("visit_rmse", MODEL_PREDICTION, rmse)
        self._add("visit_coverage", MODEL_PREDICTION, metrics.interval_coverage(self.raw, mean, sd, scans))


def _in_all_folds(by_method: dict[str, list[JackknifeEstimate]]) -> dict[str, list[JackknifeEstimate]]:
    """Leave out methods that failed in some folds, as the notes say: other folds have other scans."""
    n_folds = max(map(len, by_method.values()))
    return {name: folds for name, folds in by_method.items() if len(folds) == n_folds}


def _goodness(measure: str, value: JackknifeEstimate) -> JackknifeEstimate:
    """Transform a measure so that larger is better: minus its distance from the ideal value."""
    if measure in LARGER_IS_BETTER:
        return value
    ideal = value.chance if measure == "scanner_accuracy" else IDEAL.get(measure, 0.0)
    return metrics.combine(lambda each: -abs(each - ideal), value)
