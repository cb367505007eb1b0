"""Cross-validation of harmonization methods on a study of travelers, by held-out people and held-out visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np

from bayesharm.baselines import METHODS, Fitted, available_methods, get_method
from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import refuse_errors
from bayesharm.data.scans import name_columns
from bayesharm.data.splits import split_people, split_visits
from bayesharm.errors import InputError, check_type, shorten
from bayesharm.evaluation.bayesharm_method import BayesFitted
from bayesharm.evaluation.conclusions import draw_conclusions
from bayesharm.evaluation.fold_evaluation import FoldEvaluation
from bayesharm.evaluation.result import BAYESHARM, Evaluation
from bayesharm.fitting.fit import fit
from bayesharm.fitting.settings import Settings
from bayesharm.model.catalog import AUTO
from bayesharm.model.configure import MODEL_OPTIONS, configure_model, resolve_model, screen_study
from bayesharm.model.design import build_design
from bayesharm.model.formula.text import covariate_columns
from bayesharm.model.spec import ModelSpec
from bayesharm.progress import Progress, no_progress

# Fits of bayesharm after which compiled programs are dropped: they take some 100 MB each, and few serve another fold.
FITS_PER_CACHE = 3


def cross_validate(
    dataset: Dataset,
    methods: Sequence[str] | None = None,
    *,
    model: str | ModelSpec = AUTO,
    covariates: Sequence[str] = (),
    formula: str = "",
    reference: str | None = None,
    folds: int = 2,
    repeats: int = 2,
    visit_folds: int = 6,
    preview: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Evaluation:
    """Fit every method to a part of the study, and measure harmonization and prediction of the rest.

    *Held-out people*: the people are divided into folds, travelers and people scanned once alike; each fold is harmonized by
    fits to the others. Measures are computed in each fold and then averaged. *Held-out visits*: visits of travelers are left
    out in turn, and predicted from the same person's scans on other scanners.

    Parameters
    ----------
    dataset : Dataset
        With travelers. If it has a transform, every method gets transformed values, and is measured in them.
    methods : sequence of str, optional
        Names from :data:`bayesharm.baselines.METHODS`, and `bayesharm`; by default all that are installed.
    model, reference
        As in :func:`bayesharm.fit`. `auto` chooses once, by the whole study; the notes on bayesharm say which.
    covariates : sequence of str
        Columns whose effects are to be preserved, in addition to the diagnosis where the table has one.
    formula : str
        More covariates of bayesharm, as in :func:`bayesharm.fit`; the other methods preserve linear effects of its columns.
    folds : int
        Folds of people. With more folds the fits have more data, but measures that need many people at once
        (identification, accuracy of the classifier) have fewer.
    repeats : int
        Number of random divisions into folds.
    visit_folds : int
        Folds of visits; at most the number of visits of some traveler.
    preview : bool
        Fit bayesharm by its quick approximation.
    seed : int
        Seed of the divisions and fits.
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
        Too few people traveled, or a method, a covariate or an option of the fit is unknown or impossible.
    """
    check_type(dataset, Dataset, "evaluate", "load_dataset")
    dataset = dataset.in_transformed_units()
    progress = progress or no_progress
    names = _as_list(methods) if methods is not None else [*available_methods(), BAYESHARM]
    _check_options(names, folds=folds, repeats=repeats, visit_folds=visit_folds)
    if dataset.n_missing:
        raise InputError(
            "The methods to compare need complete features.",
            got=f"{dataset.n_missing:,} missing values",
            expected="a number for every scan and feature",
            do="load the data with missing='drop-features' or 'drop-scans' (--missing in the shell)",
        )
    named = list(dict.fromkeys(name for name in _as_list(covariates) if name != "diagnosis"))  # which the model has anyway
    preserved = _preserved(dataset, covariate_columns(named, formula))
    model, on_choice = resolve_model(model, dataset.scans, settings.get("time"))
    options = {"model": model, "reference": reference, "preview": preview, "seed": seed, **settings}
    options |= {"covariates": named, "formula": formula}
    if BAYESHARM in names:  # refuse wrong options before any work, instead of noting an error of every fit
        checked = {name: settings[name] for name in MODEL_OPTIONS if name in settings}
        spec = configure_model(model, dataset, covariates=named, formula=formula, reference=reference, **checked)
        of_inference = {name: value for name, value in settings.items() if name not in signature(fit).parameters}
        Settings.from_options({"preview": preview, **of_inference}, spec.has_tails)
        refuse_errors(screen_study(dataset, spec, options.pop("accept", ()), settings.get("time")))
        if spec.covariates or spec.formula or spec.noise_weight or spec.slopes:
            build_design(dataset.scans, spec)
        options["findings"] = ()  # the folds are parts of a study that has been screened

    fit_method = _make_fitter(names, preserved, options)
    evaluation = FoldEvaluation(dataset, fit_method, names, preserved, reference or "HC")
    if BAYESHARM in names:
        evaluation.notes[BAYESHARM] |= dict.fromkeys(on_choice)
    rng, n_parts = np.random.default_rng(seed), repeats * folds + visit_folds
    for repeat in range(repeats):
        fold = split_people(dataset.scans, folds, rng)
        for k in range(folds):
            progress("held-out people", repeat * folds + k, n_parts, "")
            evaluation.leave_people_out(fold == k)
    fold = split_visits(dataset.scans, visit_folds, rng)
    for k in range(visit_folds):
        progress("held-out visits", repeats * folds + k, n_parts, "")
        evaluation.leave_visits_out(fold == k)
    progress("held-out visits", n_parts, n_parts, "done")
    if not evaluation.measures:
        reasons = "; ".join(f"{name}: {' '.join(notes)}" for name, notes in evaluation.notes.items() if notes)
        raise InputError("No method could be evaluated.", got=reasons, do="resolve the problem of at least one method")
    measures, by_method = evaluation.tables()
    about = {
        "n_scans": len(dataset.scans), "n_features": dataset.features.n_features, "folds": folds, "repeats": repeats,
        "visit_folds": visit_folds, "covariates": preserved, "preview": preview,
    }  # fmt: skip
    return Evaluation(measures, by_method, about, draw_conclusions(measures, by_method, about))


def _as_list(names: Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_options(methods: Sequence[str], *, folds: int, repeats: int, visit_folds: int) -> None:
    for name, number, least in (("folds", folds, 2), ("repeats", repeats, 1), ("visit_folds", visit_folds, 2)):
        if number < least:
            raise InputError(f"{name} is too small.", got=str(number), expected=f"at least {least}", do=f"correct {name}")
    if not methods:
        raise InputError("There is no method to evaluate.", got="an empty list", expected="at least one", do="name a method")
    if unknown := [name for name in methods if name not in (*METHODS, BAYESHARM)]:
        raise InputError(
            "There is no such method.",
            got=shorten(unknown),
            expected=f"one or more of {', '.join((BAYESHARM, *METHODS))}",
            do="correct the methods",
        )


def _preserved(dataset: Dataset, covariates: Sequence[str]) -> list[str]:
    """Return the columns whose effects methods should preserve: the diagnosis, if there are several, and the covariates."""
    scans = dataset.scans
    diagnosis = ["diagnosis"] if "diagnosis" in scans and scans["diagnosis"].nunique() > 1 else []
    preserved = [*dict.fromkeys([*diagnosis, *covariates])]
    if absent := [name for name in preserved if name not in scans]:
        raise InputError(
            f"The scans table has no covariate {shorten(absent)}.",
            got=name_columns(scans),
            expected="covariates that are columns of the table",
            do="correct the covariates",
        )
    return preserved


def _make_fitter(names: list[str], preserved: list[str], options: dict[str, Any]) -> Callable[[str, Dataset], Fitted]:
    """Return a function that fits the method of a name to training scans."""
    fitters = {name: get_method(name).fit for name in names if name != BAYESHARM}
    n_fits = 0

    def fit_method(name: str, training: Dataset) -> Fitted:
        nonlocal n_fits
        if name != BAYESHARM:
            return fitters[name](training, preserved)
        n_fits += 1
        if n_fits % FITS_PER_CACHE == 0:
            from bayesharm.algorithms.programs import clear_all

            clear_all()
        return BayesFitted(fit(training, **options))

    return fit_method
