"""Findings on the data of a study: what is wrong or suspicious, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bayesharm.errors import InputError, ended

Severity = Literal["error", "caveat"]


@dataclass(frozen=True)
class Finding:
    """One finding on the scans table or the features.

    Attributes
    ----------
    code : str
        Fixed name of the kind of finding, for scripts, such as ``"constants-differ"``.
    severity : {"error", "caveat"}
        An error would make the result wrong and is refused; a caveat may, and is reported.
    what, got, expected, do : str
        The problem in one sentence, the data as they are, the data as they should be, and the user's next step.
    scans, participants, columns : tuple of str
        All scans, participants and columns concerned; the sentences name only the first ones.
    accepted : bool
        Whether the finding is an error that the user has accepted by its code; it is a caveat then.
    """

    code: str
    severity: Severity
    what: str
    got: str
    expected: str
    do: str
    scans: tuple[str, ...] = ()
    participants: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    accepted: bool = False

    @property
    def sentence(self) -> str:
        """The finding in one line of text, for caveats."""
        found = f" Found: {ended(self.got)}" if self.got else ""
        return f"{self.what}{found} {ended(self.do[:1].upper() + self.do[1:])}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)


def finding_from_dict(record: Mapping[str, Any]) -> Finding:
    """Restore a finding from plain data, as in ``run.json``."""
    lists = {name: tuple(record.get(name, ())) for name in ("scans", "participants", "columns")}
    return Finding(**{**record, **lists})


def refuse_errors(findings: Iterable[Finding], can_be_accepted: bool = True) -> None:
    """Raise one `InputError` about all findings that are errors, if there are any.

    Parameters
    ----------
    findings : iterable of Finding
    can_be_accepted : bool
        Whether the user may accept them by their codes.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if len(errors) == 1:
        raise InputError(
            errors[0].what, got=errors[0].got, expected=errors[0].expected, do=_advice(errors[0], can_be_accepted)
        )
    if errors:
        raise InputError(
            f"The data have {len(errors)} problems.",
            problems=[replace(error, do=_advice(error, can_be_accepted)) for error in errors],
            do="correct all of them, then run the command again",
        )


def _advice(error: Finding, can_be_accepted: bool) -> str:
    if not can_be_accepted:
        return error.do
    return f"{error.do}; or, if you have checked it, accept it: --accept {error.code} (accept={error.code!r} in Python)"
