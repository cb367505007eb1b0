"""The check of a study before it is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding
from bayesharm.data.scans import read_scans
from bayesharm.data.screening.screen import accept_findings, screen_scans
from bayesharm.data.screening.words import is_age
from bayesharm.errors import InputError
from bayesharm.io.tables import TableSource, is_path
from bayesharm.model.catalog import AUTO, load_model
from bayesharm.model.configure import chosen_spec, screen_study, screened_columns, trajectory_times
from bayesharm.model.formula.text import covariate_columns
from bayesharm.model.spec import ModelSpec
from bayesharm.study_check.columns import describe_columns, growing_ages, protocol_columns, usual_covariates
from bayesharm.study_check.conclusion import DEFAULT_REFERENCE, NO_VERDICT, conclude
from bayesharm.study_check.confounding import find_confounding
from bayesharm.study_check.counts import count_scans
from bayesharm.study_check.feature_findings import on_features, on_outlying
from bayesharm.study_check.feature_values import check_features
from bayesharm.study_check.gains import expect_gains
from bayesharm.study_check.links import find_links
from bayesharm.study_check.outlying import find_outlying
from bayesharm.study_check.precision import Precision, expect_precision
from bayesharm.study_check.recommendation import MIN_SCANNERS, Layout, lay_out, recommend
from bayesharm.study_check.result import StudyCheck
from bayesharm.study_check.typical_scales import estimate_scales, read_typical


def check(
    dataset: Dataset | TableSource,
    model: str | ModelSpec = AUTO,
    *,
    columns: Mapping[str, str] | None = None,
    covariates: Sequence[str] = (),
    formula: str = "",
    protocol: Sequence[str] = (),
    reference: str | None = None,
    time: str | None = None,
    noise_weight: str | None = None,
    accept: Sequence[str] | str = (),
    findings: Sequence[Finding] | None = None,
    source: str = "",
) -> StudyCheck:
    """Check a study before it is fitted: what it can separate, how precisely, and what is wrong with its data.

    Nothing is sampled. The expected precisions are exact for given sizes of noise and effects: estimates from some of the
    features, or without features the prior medians of the model.

    Parameters
    ----------
    dataset : Dataset, DataFrame or path
        From :func:`bayesharm.load_dataset`; or a scans table without features, such as that of a planned study.
    model : str or ModelSpec, optional
        Model of the expected precisions; `auto` is the model that suits the study.
    columns : mapping, optional
        Of a scans table, as in :func:`bayesharm.load_dataset`: bayesharm's name -> the user's column.
    covariates, formula, protocol, reference, time, noise_weight
        As for :func:`bayesharm.fit`.
    accept : sequence of str
        Codes of findings that do not count as errors; ``all`` accepts every one.
    findings : sequence of Finding, optional
        Findings of :func:`bayesharm.screen` on this dataset, if it has been screened already.
    source : str
        Arguments of the commands that stand for this dataset, ``scans.csv features.npy``: then `verdict.command` is a
        command, and otherwise a line of Python.

    Returns
    -------
    StudyCheck
        Prints as one page; `verdict`, tables, `findings` and :meth:`StudyCheck.to_json`.

    Raises
    ------
    InputError, ModelError
        The scans table, the model or the formula cannot be read.
    """
    name = model.name if isinstance(model, ModelSpec) else model
    own = load_model(model) if isinstance(model, str) and model != AUTO else model  # refused before the table is read
    scans = dataset.scans if isinstance(dataset, Dataset) else _read_scans(dataset, columns)
    features = dataset.features if isinstance(dataset, Dataset) else None
    advice = recommend(scans, time)
    chosen = own if isinstance(own, ModelSpec) else chosen_spec(advice)
    options = _options(chosen, covariates, formula, protocol, reference, time, noise_weight)
    named = covariate_columns(options["covariates"], options["formula"])
    layout = lay_out(scans, chosen, advice, options)
    described, factors = describe_columns(scans, named), protocol_columns(scans, options["protocol"])
    slopes = [family.slope for family in layout.spec.slopes]  # bayesharm adds them to the covariates
    others = scans.drop(columns=[advice.time, *slopes], errors="ignore")
    times = trajectory_times(layout.spec, time)
    within_people = advice.model == "traveling" or layout.spec.participants == "travelers"
    usual = [] if within_people or named else usual_covariates(others, times)
    growing = [name for name in growing_ages(scans, times) if name in named or not (named or any(map(is_age, usual)))]
    if findings is None:
        findings = _screen(dataset, scans, layout.spec, accept, time)
        usual, others = _screen_usual(scans, usual)
        findings += [finding for finding in others if finding not in findings]
    of_features = None if features is None else check_features(features, scans.scan_id)
    outlying = None if features is None else find_outlying(features, scans)
    if of_features is not None and outlying is not None:
        findings = [*findings, *on_features(of_features, len(scans)), *on_outlying(outlying, len(scans))]
    findings = [*layout.refusals, *findings]
    values = None if features is None else read_typical(features)
    precision, gains, caveats = _forecast(layout, scans, values)
    result = StudyCheck(
        model=layout.spec.name,
        covariates=layout.spec.covariates,
        formula=layout.spec.formula,
        protocol=tuple(family.by for family in layout.spec.factors if family.by in factors),
        verdict=NO_VERDICT,
        counts=count_scans(scans, described),
        links=find_links(scans),
        confounding=find_confounding(scans, described, factors, layout.spec.reference),
        precision=precision,
        gains=gains,
        scales_from="prior" if values is None else "features",
        features=of_features,
        outlying=outlying,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "error")),
        caveats=caveats,
    )
    offered = factors if len(result.links.shared) >= MIN_SCANNERS and not layout.spec.factors else []
    asked = advice.model if name == AUTO else name
    used = asked if layout.is_chosen else advice.model
    return replace(result, verdict=conclude(result, advice, asked, used, options, usual, offered, growing, source))


def _read_scans(source: TableSource, columns: Mapping[str, str] | None) -> pd.DataFrame:
    if not isinstance(source, pd.DataFrame) and not is_path(source):
        raise InputError(
            "check needs a Dataset, or a scans table.",
            got=f"a {type(source).__name__}",
            expected="the result of bayesharm.load_dataset, or a table with a row for each scan",
            do="call bayesharm.load_dataset first",
        )
    return read_scans(source, columns)


def _forecast(
    layout: Layout, scans: pd.DataFrame, values: np.ndarray | None
) -> tuple[Precision | None, pd.DataFrame | None, tuple[str, ...]]:
    """Expected precision, what more travelers would add, and caveats, all at the same scales."""
    design = layout.design
    if design is None:
        return None, None, ()
    scales = design.scale_medians if values is None else estimate_scales(design, values)
    found, known = identify(design, np.log(scales)), dict(zip(design.scale_labels, scales, strict=True))
    gains = expect_gains(scans, layout.spec, design.standards, values, known)
    return expect_precision(design, found, scales), gains, found.remarks


def _options(
    model: ModelSpec,
    covariates: Sequence[str],
    formula: str,
    protocol: Sequence[str],
    reference: str | None,
    time: str | None,
    noise_weight: str | None,
) -> dict[str, Any]:
    """Choices of the user, or else those of the model."""
    named = (covariates,) if isinstance(covariates, str) else tuple(covariates)
    return {
        "covariates": named or model.covariates,
        "formula": formula or model.formula,
        "protocol": tuple(protocol),
        "reference": reference or (model.reference if model.reference != DEFAULT_REFERENCE else None),
        "time": time,
        "noise_weight": noise_weight or model.noise_weight or None,
    }


def _screen(
    dataset: Dataset | TableSource, scans: pd.DataFrame, spec: ModelSpec, accept: Sequence[str] | str, time: str | None
) -> list[Finding]:
    if isinstance(dataset, Dataset):
        return screen_study(dataset, spec, accept, time)
    found = screen_scans(scans, **screened_columns(spec, time))
    return accept_findings(found, [accept] if isinstance(accept, str) else accept)


def _screen_usual(scans: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Return the columns that can be covariates as they are, and caveats on all of them."""
    if not names:
        return [], []
    found = [finding for finding in screen_scans(scans, covariates=names) if {*finding.columns} & {*names}]
    wrong = {column for finding in found if finding.severity == "error" for column in finding.columns}
    return [name for name in names if name not in wrong], [replace(finding, severity="caveat") for finding in found]
