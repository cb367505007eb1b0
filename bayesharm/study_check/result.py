"""The result of a check: one page of text, tables, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.notebook import make_card
from bayesharm.results.console import as_text
from bayesharm.study_check.counts import Counts
from bayesharm.study_check.feature_values import FeatureCheck
from bayesharm.study_check.links import Links
from bayesharm.study_check.page import PAGE_WIDTH, render_page
from bayesharm.study_check.precision import Precision
from bayesharm.study_check.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Group

FORMAT = 1  # of the JSON; it changes if a key changes its meaning or goes
MAX_ROWS = 50  # of tables in the JSON that grow with the square of the number of scanners, or with the features


@dataclass(frozen=True, eq=False)
class StudyCheck:
    """A study before it is fitted: what it can separate, how precisely, and what is wrong with its data.

    Attributes
    ----------
    model : str
        Model of the expected precisions.
    covariates, protocol : tuple of str
        Its covariates and protocol factors, columns of the scans table.
    formula : str
        More covariates, by a formula; may be empty.
    verdict : Verdict
        The conclusions, in sentences; `separable`, `model`, `why` and `command` for scripts.
    counts : Counts
    links : Links
        Which scanners travelers link.
    confounding : DataFrame
        What goes with the scanner, and how far; see :func:`bayesharm.study_check.confounding.find_confounding`.
    precision : Precision or None
        Expected posterior sds; None if no model accepts the study.
    gains : DataFrame or None
        What more travelers would add; see :func:`bayesharm.study_check.gains.expect_gains`.
    scales_from : {'features', 'prior'}
        Origin of the scales at which the expected precisions hold.
    features : FeatureCheck or None
        None if only the scans were checked.
    outlying : DataFrame or None
        Outlying scans; see :func:`bayesharm.study_check.outlying.find_outlying`.
    findings : tuple of Finding
        Errors, which a fit refuses, and caveats.
    caveats : tuple of str
        What the design does not identify: the caveats that the summary of a fit shows too.
    """

    model: str
    covariates: tuple[str, ...]
    formula: str
    protocol: tuple[str, ...]
    verdict: Verdict
    counts: Counts
    links: Links
    confounding: pd.DataFrame
    precision: Precision | None
    gains: pd.DataFrame | None
    scales_from: str
    features: FeatureCheck | None
    outlying: pd.DataFrame | None
    findings: tuple[Finding, ...]
    caveats: tuple[str, ...]

    @property
    def is_refused(self) -> bool:
        """Whether a fit would refuse the study."""
        return any(finding.severity == "error" for finding in self.findings)

    def __rich__(self) -> Group:
        return render_page(self)

    def __str__(self) -> str:
        return as_text(self, PAGE_WIDTH)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        verdict, counts, caveats = self.verdict, self.counts, [finding.sentence for finding in self.findings]
        table = counts.scanners if self.precision is None else counts.scanners.join(self.precision.scanners)
        return make_card(
            "A fit would refuse this study" if self.is_refused else "Check of the study",
            {name.replace("_", " "): count for name, count in counts.totals.items()}
            | {"model": verdict.model, "measurement bias separable": verdict.separable},
            {"Scanners, and the expected precision of their effects": table},
            sentences=verdict.sentences,
            folded={"Advice": verdict.advice, "Findings": caveats, "Caveats": self.caveats},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain data; ``docs/how-to/check.md`` describes the keys."""
        counts, precision = self.counts, self.precision
        scanners = counts.scanners.assign(component=self._components())
        if precision is not None:
            scanners = scanners.join(precision.scanners)
        by_scanner = _records(scanners)
        for row in by_scanner:
            row["diagnoses"] = {str(k): int(v) for k, v in counts.diagnoses.loc[row["scanner"]].items()}
            row["described"] = {str(k): str(v) for k, v in counts.described.loc[row["scanner"]].items()}
        return {
            "format": FORMAT,
            "refused": self.is_refused,
            "model": self.model,
            "covariates": list(self.covariates),
            "formula": self.formula,
            "protocol": list(self.protocol),
            "verdict": {key: _plain(value) for key, value in asdict(self.verdict).items()},
            "counts": counts.totals
            | {"scans_per_person": {str(n): int(people) for n, people in counts.scans_per_person.items()}},
            "scanners": by_scanner,
            "travelers": _records(counts.travelers.head(MAX_ROWS)),
            "links": {
                "components": [list(group) for group in self.links.components],
                "pairs": _records(self.links.pairs.sort_values("travelers", kind="stable").head(MAX_ROWS)),
                "bridges": {person: list(cut) for person, cut in self.links.bridges.items()},
            },
            "confounding": _records(self.confounding),
            "precision": None
            if precision is None
            else {
                "effect": precision.effect,
                "scales": {name: _plain(value) for name, value in precision.scales.items()},
                "scales_from": self.scales_from,
                "pairs": _records(precision.pairs.head(MAX_ROWS)),
                "diagnoses": _records(precision.diagnoses),
                "inflation": _records(precision.inflation),
            },
            "gains": None if self.gains is None else _records(self.gains.head(MAX_ROWS)),
            "features": None if self.features is None else _describe_features(self.features),
            "outlying_scans": None if self.outlying is None else _records(self.outlying),
            "findings": [finding.to_dict() for finding in self.findings],
            "caveats": list(self.caveats),
        }

    def to_record(self) -> dict[str, Any]:
        """Return what ``run.json`` keeps of the check; it has findings and caveats of its own."""
        return {key: value for key, value in self.to_dict().items() if key not in ("findings", "caveats")}

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the check as JSON, and write it to a file if a path is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _components(self) -> list[int]:
        place = {name: k for k, group in enumerate(self.links.components) for name in group}
        return [place[name] for name in self.counts.scanners.index]


def _describe_features(features: FeatureCheck) -> dict[str, Any]:
    return {
        "n_features": features.n_features,
        "constant": list(features.constant),
        "empty": list(features.empty),
        "infinite": list(features.infinite),
        "duplicated": [list(group) for group in features.duplicated],
        "n_incomplete": len(features.missing),
        "n_missing_values": int(features.missing.n_missing.sum()),
        "incomplete": _records(features.missing.head(MAX_ROWS)),
        "n_incomplete_scans": len(features.missing_scans),
        "incomplete_scans": _records(features.missing_scans.head(MAX_ROWS)),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as plain data; a named index becomes a column, and numbers that are not finite None."""
    table = table.reset_index() if table.index.name else table
    return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
