"""How well methods harmonize people and visits that they have not seen, on a study of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.baselines import METHODS, Fitted, available_methods, get_method
from bayesharm.data.dataset import Dataset
from bayesharm.data.splits import split_people, split_visits
from bayesharm.errors import InputError, check_type, shorten
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.evaluation.conclusions import say_verdict
from bayesharm.evaluation.cross_validation import BAYESHARM, CrossValidation
from bayesharm.evaluation.result import Evaluation
from bayesharm.fitting.fit import configure_model, fit
from bayesharm.model.spec import ModelSpec
from bayesharm.progress import Progress, no_progress

FITS_KEPT = 3  # whose programs are kept, some hundred MB each: few of them serve another part of the study


def cross_validate(
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
    progress: Progress | None = None,
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
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).
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
    check_type(dataset, Dataset, "evaluate", "load_dataset")
    progress = progress or no_progress
    covariates = [covariates] if isinstance(covariates, str) else list(covariates)
    methods = [methods] if isinstance(methods, str) else methods
    for name, number, least in (("folds", folds, 2), ("repeats", repeats, 1), ("visit_folds", visit_folds, 2)):
        if number < least:
            raise InputError(f"{name} is too small.", got=str(number), expected=f"at least {least}", do=f"correct {name}")
    preserved = [*dict.fromkeys([*(["diagnosis"] if _several(dataset.scans, "diagnosis") else []), *covariates])]
    if absent := [name for name in preserved if name not in dataset.scans]:
        raise InputError(
            f"The scans table has no covariate {shorten(absent)}.",
            got=f"columns {shorten(dataset.scans.columns, 30)}",
            expected="covariates that are columns",
            do="correct the covariates",
        )
    wanted = list(methods) if methods is not None else [*available_methods(), BAYESHARM]
    if not wanted:
        raise InputError("There is nothing to evaluate.", got="no method", expected="one or more", do="name some methods")
    if unknown := [name for name in wanted if name not in (*METHODS, BAYESHARM)]:
        raise InputError(
            "There is no such method.",
            got=shorten(unknown),
            expected=f"some of {', '.join((BAYESHARM, *METHODS))}",
            do="correct the methods",
        )
    fitters = {name: None if name == BAYESHARM else get_method(name).fit for name in wanted}
    options = {"model": model, "reference": reference, "preview": preview, "seed": seed, **settings}
    own = [name for name in preserved if name != "diagnosis"]
    if BAYESHARM in wanted:  # an error in its options is to be seen before the work, and not as that of each fit
        chosen = {name: settings[name] for name in ("protocol", "feature_scaling") if name in settings}
        configure_model(model, dataset, covariates=own, reference=reference, **chosen)

    def fit_method(name: str, train: Dataset) -> Fitted:
        if (fitter := fitters[name]) is not None:
            return fitter(train, preserved)
        if len(work.seconds[BAYESHARM]) % FITS_KEPT == FITS_KEPT - 1:
            from bayesharm.algorithms.programs import clear_all

            clear_all()
        return BayesFitted(fit(train, covariates=own, **options))

    rng, work = np.random.default_rng(seed), CrossValidation(dataset, fit_method, wanted, preserved, reference or "HC")
    n_parts = repeats * folds + visit_folds
    for repeat in range(repeats):
        fold = split_people(dataset.scans, folds, rng)
        for k in range(folds):
            progress("people left out", repeat * folds + k, n_parts, "")
            work.leave_people_out(fold == k)
    fold = split_visits(dataset.scans, visit_folds, rng)
    for k in range(visit_folds):
        progress("visits left out", repeats * folds + k, n_parts, "")
        work.leave_visits_out(fold == k)
    progress("visits left out", n_parts, n_parts, "done")
    if not work.found:
        told = "; ".join(f"{name}: {' '.join(notes)}" for name, notes in work.notes.items() if notes)
        raise InputError("No method could be evaluated.", got=told, do="correct what is wrong with one of them")
    table, by_method = work.tables()
    about = {
        "n_scans": len(dataset.scans), "n_features": dataset.features.n_features, "folds": folds, "repeats": repeats,
        "visit_folds": visit_folds, "covariates": preserved, "preview": preview,
    }  # fmt: skip
    return Evaluation(table, by_method, about, say_verdict(table, by_method, about))


def _several(scans: pd.DataFrame, name: str) -> bool:
    return name in scans and scans[name].nunique() > 1
