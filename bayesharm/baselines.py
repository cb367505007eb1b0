"""What others compute, on the same scans: point estimates to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import splu

from bayesharm.columns import levels_by
from bayesharm.dataset import Dataset
from bayesharm.design import Design, build_design
from bayesharm.errors import InputError
from bayesharm.spec import load_model

MODEL = "traveling_and_cohort"  # whose columns are those of the paper: people scanned once have no effect of their own
RIDGE = 14.0


@dataclass(frozen=True, eq=False)
class Yamashita2019:
    """Point estimates of the 2019 study.

    Attributes
    ----------
    effects : dict of DataFrame
        (level × feature) of each family, in the features' units; over the levels of `measurement`, `participant` and of each
        diagnosis' `sampling` they add up to 0.
    mean : Series
        The constant of each feature.
    contributions : Series
        Contribution size of each family.
    """

    effects: dict[str, pd.DataFrame]
    mean: pd.Series
    contributions: pd.Series


def yamashita2019(dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None) -> Yamashita2019:
    """Constrained ridge regression of every feature on 0/1 columns of scanners, populations, diagnoses and travelers.

    One penalty for all coefficients, the constant too, and mean 0 of the effects of measurement, of travelers, and of the
    populations of each diagnosis: one system of equations for all features [1]_. The contribution of a family is the mean
    over scans and features of its squared effect over the sum of all squared effects and the squared residual, divided by
    its number of levels.

    The travelers' mean and the mean of the sites' populations are not 0 in truth: what these have in common goes into other
    effects.

    Parameters
    ----------
    dataset : Dataset
    ridge : float
        The penalty; the study took 14.
    reference : str, optional
        The diagnosis without an effect; that of the model if it is left out.

    Returns
    -------
    Yamashita2019

    Raises
    ------
    InputError
        An impossible penalty.
    ModelError
        Nobody traveled, or nobody has the reference diagnosis.

    References
    ----------
    .. [1] Yamashita et al. (2019). Harmonization of resting-state functional MRI data across multiple imaging sites via
       the separation of site differences into sampling bias and measurement bias. *PLOS Biology* 17, e3000042.
    """
    if not (np.isfinite(ridge) and ridge > 0):
        raise InputError(
            "The penalty is impossible.",
            got=f"ridge={ridge!r}",
            expected="a number above 0",
            do="leave it out",
        )
    spec = load_model(MODEL)
    spec = spec if reference is None else replace(spec, reference=reference)
    design = build_design(dataset.scans, spec)
    columns, constraints = design.matrix, _constraints(design)
    n_columns, n_features = columns.shape[1], dataset.features.n_features
    penalized = columns.T @ columns + ridge * sparse.eye_array(n_columns)
    solver = splu(sparse.block_array([[penalized, constraints.T], [constraints, None]], format="csc"))
    family = np.array([design.scales[scale] if scale >= 0 else "mean" for scale in design.column_scale])
    names = list(design.scales[1:])  # but the noise
    coefficients, shares = np.empty((n_columns, n_features)), np.zeros(len(names))
    for start, stop in dataset.features.blocks():
        values = dataset.features.read(start, stop)[design.rows].astype(float)
        rhs = np.concatenate([columns.T @ values, np.zeros((constraints.shape[0], stop - start))])
        found = coefficients[:, start:stop] = solver.solve(rhs)[:n_columns]
        squares = np.stack([(columns[:, family == name] @ found[family == name]) ** 2 for name in names])
        shares += (squares / (squares.sum(0) + (values - columns @ found) ** 2)).sum((1, 2))
    labels = [name.partition(":") for name in design.columns]
    features = pd.Index(dataset.features.names, name="feature")
    effects = {}
    for name in dict.fromkeys(label[0] for label in labels if label[0] != "mean"):
        rows = [k for k, label in enumerate(labels) if label[0] == name]
        index = pd.Index([labels[k][2] for k in rows], name=levels_by(spec, name))
        effects[name] = pd.DataFrame(coefficients[rows], index=index, columns=features).sort_index()
    levels = np.array([(family == name).sum() for name in names])
    contributions = pd.Series(shares / (design.n_scans * n_features) / levels, index=pd.Index(names, name="family"))
    mean = pd.Series(coefficients[design.columns.index("mean:mean")], index=features)
    return Yamashita2019(effects, mean, contributions)


@dataclass(frozen=True, eq=False)
class PopulationRegression:
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


NOT_SPECIFIC = (
    "This method says several populations whether there are or not: errors of the estimated measurement bias go into the "
    "estimated sampling bias, and do not become smaller with the number of people of a site."
)


def regress_populations(
    dataset: Dataset, *, ridge: float = RIDGE, reference: str | None = None
) -> PopulationRegression:
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
    label = (scans["site"] + "/" + scans["diagnosis"].astype(str)) if "diagnosis" in scans else scans["site"]
    own = ~travels & (scans["diagnosis"] == chosen if "diagnosis" in scans else True)
    count = scans[own].assign(label=label[own]).groupby("label")["participant_id"].nunique()
    effects = found.effects.get("sampling", pd.DataFrame())
    there = [name for name in count.index if name in effects.index]
    if len(there) < 5:
        raise InputError(
            "There are too few sites for this regression.",
            got=f"people of {chosen} who did not travel from {len(there)} sites",
            expected="five sites or more",
            do="leave method out: the posterior works with two sites",
        )
    n, variance = count[there].to_numpy(float), effects.loc[there].var(axis=1).to_numpy()
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


def _constraints(design: Design) -> sparse.csr_array:
    """A row of ones for the columns of each scale but those of diagnoses."""
    centred = {family.name for family in design.spec.families if family.by != "diagnosis"}
    rows = [
        [scale == k and name.partition(":")[0] in centred
         for scale, name in zip(design.column_scale, design.columns, strict=True)]
        for k in range(len(design.scales))
    ]  # fmt: skip
    return sparse.csr_array(np.array([row for row in rows if any(row)], float))
