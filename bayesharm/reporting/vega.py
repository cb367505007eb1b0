"""Import of the library that draws the charts of a report. Nothing slow is imported here: its absence shows at once."""

from __future__ import annotations

from typing import Any

from bayesharm.errors import BayesharmError


def vega() -> Any:
    """Import the library that has Vega-Lite.

    Raises
    ------
    BayesharmError
        It is not installed.
    """
    try:
        import vl_convert
    except ModuleNotFoundError:
        raise BayesharmError(
            "Reports need vl-convert-python, which is not installed.",
            expected="the optional part 'plots' of bayesharm",
            do="pip install 'bayesharm[plots]'",
        ) from None
    return vl_convert
