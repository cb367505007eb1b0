"""One population or several, by the regression of Yamashita et al. (2019): for comparison with the posterior only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.baselines import MODEL, RIDGE, yamashita2019
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError
from bayesharm.model.catalog import load_model
from bayesharm.results.tables import Tables

MIN_SITES = 5  # below, the corrected Akaike criterion of the larger model is not defined
CAVEAT = (
    "This method is not specific: it nearly always prefers several populations, also where there is only one. Errors of the "
    "estimated measurement bias enter the estimated sampling bias, and do not shrink with the number of people at a site."
)


@dataclass(frozen=True, eq=False, repr=False)
class PopulationRegression(Tables):
    """Regression of the variance of a site's sampling bias over features on its number of people.

    Attributes
    ----------
    sites : DataFrame by site
        `n`, the number of people with the reference diagnosis who did not travel; `variance` of their estimated sampling
        bias over features; the fitted variance of both models, `one` and `several`.
    models : DataFrame by model
        ``one``: variance = `slope` / n; ``several``: variance = `slope` / n + `intercept`; with the corrected Akaike
        information criterion `aicc`, smaller is better.
    """

    sites: pd.DataFrame
    models: pd.DataFrame

    @property
    def several(self) -> bool:
        """Whether the corrected Akaike criterion prefers several populations."""
        return bool(self.models.aicc["several"] < self.models.aicc["one"])

    def __str__(self) -> str:
        conclusion = "several populations" if self.several else "one population"
        return f"{self.sites}\n\n{self.models}\n\n{conclusion} (regression of the 2019 study). {CAVEAT}"


def regress_populations(dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None) -> PopulationRegression:
    """Compare one population with several by the regression of Yamashita et al. (2019); not specific, see :data:`CAVEAT`.

    If all sites sample one population, the variance over features of a site's mean is inversely proportional to its number
    of people. If each site samples its own population, a constant is added. Both models are fitted by least squares over
    sites and compared by the corrected Akaike information criterion.

    Parameters
    ----------
    dataset, ridge, reference
        As for :func:`yamashita2019`.

    Raises
    ------
    InputError
        People with the reference diagnosis come from fewer than five sites: the criterion is not defined.
    ModelError
        As for :func:`yamashita2019`.
    """
    estimates = yamashita2019(dataset, ridge=ridge, reference=reference)
    diagnosis = reference or load_model(MODEL).reference
    scans, travels = dataset.scans, dataset.scans.groupby("participant_id")["scanner"].transform("nunique") > 1
    is_included = ~travels & (scans["diagnosis"] == diagnosis if "diagnosis" in scans else True)
    per_site = scans[is_included].groupby("site")["participant_id"].nunique()
    populations = estimates.populations
    if "diagnosis" in scans:
        populations = populations[populations["diagnosis"] == diagnosis]
    count = populations["site"].map(per_site).dropna().astype(int).sort_index()
    sites = list(count.index)
    if len(sites) < MIN_SITES:
        raise InputError(
            "There are too few sites for this regression.",
            got=f"{diagnosis} who did not travel from {len(sites)} sites",
            expected=f"at least {MIN_SITES} sites",
            do="leave the method out: the posterior needs only two sites",
        )
    n, variance = count[sites].to_numpy(float), estimates.effects["sampling"].loc[sites].var(axis=1).to_numpy()
    table = pd.DataFrame({"n": count[sites], "variance": variance})
    rows = {}
    for name, columns in (("one", [1 / n]), ("several", [1 / n, np.ones_like(n)])):
        x = np.stack(columns, axis=1)
        coefficients = np.linalg.lstsq(x, variance, rcond=None)[0]
        table[name] = x @ coefficients
        k, n_sites = len(columns) + 1, len(n)  # k counts the residual variance too
        aicc = n_sites * np.log(((variance - table[name]) ** 2).mean()) + 2 * k + 2 * k * (k + 1) / (n_sites - k - 1)
        rows[name] = {"slope": coefficients[0], "intercept": coefficients[1] if k > 2 else 0.0, "aicc": aicc}
    return PopulationRegression(table.rename_axis("site"), pd.DataFrame(rows).T.rename_axis("model"))
