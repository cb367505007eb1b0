"""The conclusions of a check: sentences of all its parts in order, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayesharm.study_check import verdict as say
from bayesharm.study_check.recommendation import Recommendation
from bayesharm.study_check.result import StudyCheck

DEFAULT_REFERENCE = "HC"  # of all models in the package
NO_VERDICT = say.Verdict("", "", "", (), (), (), "")


def conclude(
    result: StudyCheck,
    advice: Recommendation,
    asked: str,
    used: str,
    options: dict[str, Any],
    usual: Sequence[str],
    protocol: Sequence[str],
    growing: Sequence[str],
    source: str,
) -> say.Verdict:
    """Draw the conclusions of a check.

    Parameters
    ----------
    result : StudyCheck
        Without a verdict.
    advice : Recommendation
    asked, used : str
        The model that the user chose, or the recommended one; and the model of the numbers and the command: the same if it
        accepts the study.
    options : dict
        `covariates`, `formula`, `protocol`, `reference`, `time` and `noise_weight`, as the user chose them.
    usual : sequence of str
        Covariates that the table offers, and that the user did not choose.
    protocol : sequence of str
        Columns that describe the scanners, and that the user did not choose.
    growing : sequence of str
        Ages that grow with the time of trajectories, where they are a covariate or the table has no other age.
    source : str
        As in :func:`bayesharm.check`.
    """
    separable, separation = say.on_separation(result.counts, result.links)
    doubtful = separable != "no" and any(finding.code == "people-unlike" for finding in result.findings)
    separation = [*(say.on_doubtful_people() if doubtful else []), *separation]
    reference = options["reference"] or advice.reference
    disorder = say.on_disorder(result.counts, result.precision, reference or DEFAULT_REFERENCE)
    confounding, precision = say.on_confounding(result.confounding), say.on_precision(result.precision)
    gains, findings = say.on_gains(result.gains, separable), say.on_findings(result.findings)
    on_model = say.on_model(advice, asked, used, protocol if advice.model != "cohort" else [], usual)
    on_model += say.on_growing_ages(growing)
    command = say.next_command(
        source,
        {
            "model": used,
            "reference": reference,
            "time": advice.time if used == advice.model else options["time"],
            "covariates": list(options["covariates"] or usual),
            "formula": options["formula"],
            "noise_weight": options["noise_weight"],
            "protocol": list(options["protocol"]) if used == asked else [],
        },
    )
    other_model = [sentence for sentence in on_model if sentence.startswith("The check recommends")]
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
