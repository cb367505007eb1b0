"""The check of a study before it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding
from bayesharm.data.scans import read_scans
from bayesharm.data.screening.screen import accept_findings, screen_scans
from bayesharm.errors import InputError
from bayesharm.model.configure import screen_study
from bayesharm.model.spec import ModelSpec
from bayesharm.study_check import verdict as say
from bayesharm.study_check.columns import describe_columns, protocol_columns, usual_covariates
from bayesharm.study_check.confounding import find_confounding
from bayesharm.study_check.counts import count_scans
from bayesharm.study_check.feature_findings import on_features, on_outlying
from bayesharm.study_check.feature_values import check_features
from bayesharm.study_check.gains import expect_gains
from bayesharm.study_check.links import find_links
from bayesharm.study_check.outlying import find_outlying
from bayesharm.study_check.precision import expect_precision
from bayesharm.study_check.recommendation import MIN_SCANNERS, Recommendation, lay_out, recommend
from bayesharm.study_check.result import StudyCheck
from bayesharm.study_check.typical_scales import estimate_scales, read_typical

DEFAULT_REFERENCE = "HC"  # of all models in the package
NO_VERDICT = say.Verdict("", "", "", (), (), (), "")


def check(
    dataset: Dataset | pd.DataFrame,
    model: str | ModelSpec | None = None,
    *,
    covariates: Sequence[str] = (),
    protocol: Sequence[str] = (),
    reference: str | None = None,
    accept: Sequence[str] | str = (),
    findings: Sequence[Finding] | None = None,
    source: str = "",
) -> StudyCheck:
    """Check a study before it is fitted: what it can separate, how precisely, and what is wrong with its data.

    Nothing is sampled. The expected precisions are exact for given sizes of noise and effects: estimates from some of the
    features, or without features the prior medians of the model.

    Parameters
    ----------
    dataset : Dataset or DataFrame
        From :func:`bayesharm.load_dataset`; or a scans table without features, such as that of a planned study.
    model : str or ModelSpec, optional
        Model of the expected precisions. Default: the model that suits the study.
    covariates, protocol, reference
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
    InputError
        The scans table cannot be read.
    """
    if not isinstance(dataset, (Dataset, pd.DataFrame)):
        raise InputError(
            "check needs a Dataset, or a scans table.",
            got=f"a {type(dataset).__name__}",
            expected="the result of bayesharm.load_dataset, or a DataFrame with a row for each scan",
            do="call bayesharm.load_dataset first",
        )
    scans = dataset.scans if isinstance(dataset, Dataset) else read_scans(dataset)
    advice = recommend(scans)
    chosen = model or advice.model
    options = _options(chosen, covariates, protocol, reference)
    layout = lay_out(scans, chosen, advice, options)
    spec, design = layout.spec, layout.design
    columns, factors = describe_columns(scans, options["covariates"]), protocol_columns(scans, options["protocol"])
    values = read_typical(dataset.features) if isinstance(dataset, Dataset) else None
    scales = np.ones(0)
    if design is not None:
        scales = design.scale_medians if values is None else estimate_scales(design, values)
    found = None if design is None else identify(design, np.log(scales))

    if findings is None:
        findings = _screen(dataset, scans, spec, accept)
    features = outlying = None
    if isinstance(dataset, Dataset):
        features, outlying = check_features(dataset.features, scans.scan_id), find_outlying(dataset.features, scans)
        findings = [*findings, *on_features(features, len(scans)), *on_outlying(outlying, len(scans))]
    if layout.refusal is not None:
        findings = [layout.refusal, *findings]
    result = StudyCheck(
        model=spec.name,
        covariates=spec.covariates,
        protocol=tuple(family.grouping for family in spec.factors if family.grouping in factors),
        verdict=NO_VERDICT,
        counts=count_scans(scans, columns),
        links=find_links(scans),
        confounding=find_confounding(scans, columns, factors, spec.reference),
        precision=None if design is None or found is None else expect_precision(design, found, scales),
        gains=None
        if design is None
        else expect_gains(scans, spec, design.covariates, values, dict(zip(design.scale_labels, scales, strict=True))),
        scales_from="prior" if values is None else "features",
        features=features,
        outlying=outlying,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "error")),
        caveats=() if found is None else found.remarks,
    )
    offered = factors if len(result.links.shared) >= MIN_SCANNERS and not spec.factors else []
    name = chosen if isinstance(chosen, str) else chosen.name
    return replace(result, verdict=conclude(result, advice, name, options, scans, offered, source))


def _options(
    model: str | ModelSpec, covariates: Sequence[str], protocol: Sequence[str], reference: str | None
) -> dict[str, Any]:
    """Choices of the user; a specification brings its own."""
    options: dict[str, Any] = {
        "covariates": (covariates,) if isinstance(covariates, str) else tuple(covariates),
        "protocol": tuple(protocol),
        "reference": reference,
    }
    if isinstance(model, ModelSpec):
        options["covariates"] = options["covariates"] or model.covariates
        options["reference"] = reference or (model.reference if model.reference != DEFAULT_REFERENCE else None)
    return options


def _screen(
    dataset: Dataset | pd.DataFrame, scans: pd.DataFrame, spec: ModelSpec, accept: Sequence[str] | str
) -> list[Finding]:
    if isinstance(dataset, Dataset):
        return screen_study(dataset, spec, accept)
    factors = [family.grouping for family in spec.factors]
    found = screen_scans(scans, covariates=spec.covariates, factors=factors)
    return accept_findings(found, [accept] if isinstance(accept, str) else accept)


def conclude(
    result: StudyCheck,
    advice: Recommendation,
    chosen: str,
    options: dict[str, Any],
    scans: pd.DataFrame,
    protocol: Sequence[str],
    source: str,
) -> say.Verdict:
    """Draw the conclusions of a check.

    Parameters
    ----------
    result : StudyCheck
        Without a verdict.
    advice : Recommendation
    chosen : str
        Name of the model that the user chose, or that is recommended.
    options : dict
        `covariates`, `protocol` and `reference`, as the user chose them.
    scans : DataFrame
    protocol : sequence of str
        Columns that describe the scanners, and that the user did not choose.
    source : str
        As in :func:`check`.
    """
    usual = [] if advice.model == "traveling" or options["covariates"] else usual_covariates(scans)
    separable, separation = say.on_separation(result.counts, result.links)
    reference = options["reference"] or advice.reference
    disorder = say.on_disorder(result.counts, result.precision, reference or DEFAULT_REFERENCE)
    confounding, precision = say.on_confounding(result.confounding), say.on_precision(result.precision)
    gains, findings = say.on_gains(result.gains, separable), say.on_findings(result.findings)
    on_model = say.on_model(advice, chosen, protocol if advice.model != "cohort" else [], usual)
    model = chosen if chosen in ("protocol",) else advice.model
    command = say.next_command(
        source,
        {
            "model": model,
            "reference": reference,
            "covariates": list(options["covariates"] or usual),
            "protocol": list(options["protocol"]) if model == "protocol" else [],
        },
    )
    other_model = on_model[:1] if chosen not in (advice.model, "protocol") else []
    short = (*separation[:1], *disorder[:1], *precision, *other_model, *findings)[:4]
    return say.Verdict(
        separable=separable,
        model=advice.model,
        why=advice.why,
        sentences=(*(findings if result.is_refused else []), *separation, *disorder, *confounding, *precision, *gains),
        advice=(*on_model, *([] if result.is_refused else findings)),
        short=short,
        command=command,
    )
