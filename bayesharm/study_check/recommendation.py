"""The model that suits a study, and the layout of the study for it or for the nearest model that accepts it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.errors import BayesharmError
from bayesharm.model.automatic import ModelChoice, choose_model
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import ModelSpec

CONTROLS = frozenset("hc control controls healthy healthycontrol hv ctl ctrl con nc cn td typical normal 0".split())
MIN_SCANNERS = 6  # with fewer, protocol factors are not suggested


@dataclass(frozen=True)
class Recommendation(ModelChoice):
    """The model that suits a study, and its reference diagnosis.

    Attributes
    ----------
    reference : str
        The reference diagnosis, if it has to be named; else empty.
    """

    reference: str = ""


def recommend(scans: pd.DataFrame, time: str | None = None) -> Recommendation:
    """Choose the model for a study, as `auto` does with the time that the user named, and the reference diagnosis."""
    choice = choose_model(scans, time)
    return Recommendation(**vars(choice), reference=_guess_reference(scans))


def _guess_reference(scans: pd.DataFrame) -> str:
    """The reference diagnosis if it is not HC: a usual name of controls, else the most frequent diagnosis."""
    if "diagnosis" not in scans:
        return ""
    counts = scans.diagnosis.value_counts()
    if load_model("cohort").reference in counts:
        return ""
    named = [str(name) for name in counts.index if "".join(filter(str.isalnum, str(name))).lower() in CONTROLS]
    return named[0] if named else str(counts.index[0])


@dataclass(frozen=True, eq=False)
class Layout:
    """A study laid out for a model.

    Attributes
    ----------
    spec : ModelSpec
        The model of the numbers: the chosen one, or the nearest that accepts the study.
    design : Design or None
        None if no model accepts the study.
    refusals : tuple of Finding
        The reasons why a fit of the chosen model would be refused, if it would.
    is_chosen : bool
        Whether `spec` is the chosen model, perhaps with another reference diagnosis.
    """

    spec: ModelSpec
    design: Design | None
    refusals: tuple[Finding, ...]
    is_chosen: bool


def lay_out(scans: pd.DataFrame, model: ModelSpec, advice: Recommendation, options: dict[str, Any]) -> Layout:
    """Lay out a study for the chosen model; if that is refused, for the nearest model that accepts it.

    Parameters
    ----------
    scans : DataFrame
    model : ModelSpec
    advice : Recommendation
    options : dict
        `covariates`, `formula`, `protocol`, `reference`, `time` and `noise_weight` of :func:`bayesharm.fit`.
    """
    refusals: tuple[Finding, ...] = ()
    with_reference = {**options, "reference": options.get("reference") or advice.reference or None}
    candidates: list[tuple[str | ModelSpec, dict[str, Any]]] = [(model, options), (model, with_reference)]
    for near, changed in (*candidates, *_nearest(advice, options)):
        try:
            spec = configure_model(near, scans, **changed)
            design = build_design(scans, spec)
        except BayesharmError as error:
            refusals = refusals or _as_findings(error)
            continue
        if refusals and changed is with_reference:
            add = f"add --reference {shlex.quote(advice.reference)} if that is the reference group; otherwise "
            refusals = tuple(replace(each, do=add + each.do) for each in refusals)
        return Layout(spec, design, refusals, near is model)
    return Layout(load_model(advice.model), None, refusals, False)


def _nearest(advice: Recommendation, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Models and options to try instead: the recommended model and reference, then without covariates."""
    reference = options.get("reference") or advice.reference or None
    covariates: dict[str, Any] = {name: options[name] for name in ("covariates", "formula") if name in options}
    for kept in (covariates, {}):
        for name in (advice.reference or None, reference):
            yield advice.model, {**kept, "reference": name, "time": advice.time or None}


def _as_findings(error: BayesharmError) -> tuple[Finding, ...]:
    problems = error.problems or (error,)
    return tuple(Finding("fit-refused", "error", each.what, each.got, each.expected, each.do) for each in problems)
