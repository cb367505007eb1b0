"""One population or several, by the regression of the 2019 study: to be shown beside the posterior, not to be relied on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.baselines import MODEL, RIDGE, yamashita2019
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError
from bayesharm.model.catalog import load_model
from bayesharm.results.tables import Tables

NOT_SPECIFIC = (
    "This method nearly always says several populations, whether there are or not: errors of the estimated measurement bias "
    "go into the estimated sampling bias, and do not become smaller with the number of people of a site."
)


@dataclass(frozen=True, eq=False)
class PopulationRegression(Tables):
    """Variance over features of the sampling bias of each site against its number of people, as the 2019 study did.

    Attributes
    ----------
    sites : DataFrame by site
        `n`: people with the reference diagnosis scanned once; `variance` of their estimated sampling bias over features;
        `one` and `several`: what the two models make of it.
    models : DataFrame by model
        ``one``: variance = `slope` / n; ``several``: `slope` / n + `intercept`; and `aicc`, the smaller the better.
    """

    sites: pd.DataFrame
    models: pd.DataFrame

    @property
    def several(self) -> bool:
        """Whether this method prefers several populations."""
        return bool(self.models.aicc["several"] < self.models.aicc["one"])

    def __str__(self) -> str:
        verdict = "several populations" if self.several else "one population"
        return f"{self.sites}\n\n{self.models}\n\n{verdict} (regression of the 2019 study). {NOT_SPECIFIC}"


def regress_populations(dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None) -> PopulationRegression:
    """One population or several, by the regression of the 2019 study: not specific, see :data:`NOT_SPECIFIC`.

    If all sites sample one population, the variance over features of a site's mean is inversely proportional to its number
    of people; if each samples its own, something is added that does not depend on it. Least squares over sites; the
    corrected Akaike criterion of both.

    Parameters
    ----------
    dataset, ridge, reference
        As for :func:`yamashita2019`.

    Raises
    ------
    InputError
        People of the reference diagnosis come from fewer than five sites: the criterion is not defined.
    ModelError
        As for :func:`yamashita2019`.
    """
    found = yamashita2019(dataset, ridge=ridge, reference=reference)
    chosen = reference or load_model(MODEL).reference
    scans, travels = dataset.scans, dataset.scans.groupby("participant_id")["scanner"].transform("nunique") > 1
    is_chosen = ~travels & (scans["diagnosis"] == chosen if "diagnosis" in scans else True)
    per_site = scans[is_chosen].groupby("site")["participant_id"].nunique()
    populations = found.populations
    if "diagnosis" in scans:
        populations = populations[populations["diagnosis"] == chosen]
    count = populations["site"].map(per_site).dropna().astype(int).sort_index()
    there = list(count.index)
    if len(there) < 5:
        raise InputError(
            "There are too few sites for this regression.",
            got=f"people of {chosen} who did not travel from {len(there)} sites",
            expected="five sites or more",
            do="leave method out: the posterior works with two sites",
        )
    n, variance = count[there].to_numpy(float), found.effects["sampling"].loc[there].var(axis=1).to_numpy()
    table = pd.DataFrame({"n": count[there], "variance": variance})
    rows = {}
    for name, columns in (("one", [1 / n]), ("several", [1 / n, np.ones_like(n)])):
        x = np.stack(columns, axis=1)
        coefficients = np.linalg.lstsq(x, variance, rcond=None)[0]
        table[name] = x @ coefficients
        k, sites = len(columns) + 1, len(n)  # and the residual variance
        aicc = sites * np.log(((variance - table[name]) ** 2).mean()) + 2 * k + 2 * k * (k + 1) / (sites - k - 1)
        rows[name] = {"slope": coefficients[0], "intercept": coefficients[1] if k > 2 else 0.0, "aicc": aicc}
    return PopulationRegression(table.rename_axis("site"), pd.DataFrame(rows).T.rename_axis("model"))
