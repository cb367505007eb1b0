"""Expected precision of the scanner effects: their posterior sd given the scales, before anything is sampled.

Given the scales, the posterior covariance of all effects depends on the design only (line 5 of
``bayesharm.likelihood.definition``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.conditional.identifiability import Identifiability
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.likelihood.definition import prior_variance
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.contrasts import EffectGroup, add_columns
from bayesharm.model.design import Design
from bayesharm.model.restriction import restrict_design

FLAT_SD = 100.0  # prior sd, in sd of a feature, that says nothing
INSEPARABLE = 1000.0  # variance inflation, above which the design does not separate two effects


@dataclass(frozen=True, eq=False)
class Precision:
    """Expected sds of effects given the scales, in standard deviations of a feature.

    Attributes
    ----------
    effect : str
        The effect that harmonizing removes: `measurement`, or `site` in a model without travelers.
    scales : dict
        The scales, by label.
    scanners : DataFrame by scanner
        Effect of the scanner minus the mean of all: `prior_sd`, `expected_sd`, their `ratio`, `from_data` (the contraction)
        and `from_travelers` (the contraction given the scans of travelers alone).
    pairs : DataFrame
        Difference of two scanners, least certain first: `first`, `second`, `rests_on`, and the same numbers.
    diagnoses : DataFrame by diagnosis
        Disorder effect against the reference: the same numbers.
    inflation : DataFrame
        Variance inflation: `of` an effect (the removed one, or `disorder`), `by` another term of the model: variance of the
        effect over its variance if the other term were known, `mean` over levels, and the `largest`, that of `level`. Both
        effects have flat priors here, except sampling bias; above 1,000 (`INSEPARABLE`) the design does not separate them.
    """

    effect: str
    scales: dict[str, float]
    scanners: pd.DataFrame
    pairs: pd.DataFrame
    diagnoses: pd.DataFrame
    inflation: pd.DataFrame


def expect_precision(design: Design, found: Identifiability, scales: np.ndarray) -> Precision:
    """Compute the expected precision of the scanner and disorder effects of a design.

    Parameters
    ----------
    design : Design
    found : Identifiability
        From :func:`bayesharm.conditional.identifiability.identify`, at these scales.
    scales : (scale,) array
        In standard deviations of a feature.
    """
    effect = design.spec.removed_effect
    removed = find_effects(design, effect)
    scanners, disorder = pd.DataFrame(index=pd.Index(design.scanners, name="scanner")), find_effects(design, "disorder")
    variance = prior_variance(design, np.log(scales), VarianceRatios.equal(len(design.scanners), len(design.correlations)))
    if removed is not None:
        scanners = _expected(removed, found, variance).rename_axis("scanner")
        scanners["from_travelers"] = _shares(found, effect, "contraction_travelers")
    diagnoses = pd.DataFrame(columns=["prior_sd", "expected_sd", "ratio", "from_data"]).rename_axis("diagnosis")
    if disorder is not None:
        diagnoses = _expected(disorder, found, variance).rename_axis("diagnosis")
    return Precision(
        effect=effect,
        scales=dict(zip(design.scale_labels, map(float, scales), strict=True)),
        scanners=scanners,
        pairs=_pairs(design, found, variance),
        diagnoses=diagnoses,
        inflation=_inflations(design, scales, removed, disorder),
    )


def find_effects(design: Design, name: str) -> EffectGroup | None:
    """Return the reported effects of a name, or None if the design has none."""
    return next((group for group in design.effects if group.name == name), None)


def _expected(group: EffectGroup, found: Identifiability, variance: np.ndarray) -> pd.DataFrame:
    """Prior sd of the contrasts of a group, their contraction, and the posterior sd that follows from both."""
    prior = np.sqrt(group.contrasts**2 @ variance)
    return _columns(pd.Index(group.levels), prior, _shares(found, group.name, "contraction"))


def _columns(index: pd.Index, prior_sd: np.ndarray, from_data: np.ndarray) -> pd.DataFrame:
    ratio = np.sqrt(np.clip(1 - from_data, 0, 1))
    columns = {"prior_sd": prior_sd, "expected_sd": prior_sd * ratio, "ratio": ratio, "from_data": from_data}
    return pd.DataFrame(columns, index=index)


def _shares(found: Identifiability, group: str, column: str) -> np.ndarray:
    return found.contrasts.loc[found.contrasts.group == group, column].to_numpy(float)


def _pairs(design: Design, found: Identifiability, variance: np.ndarray) -> pd.DataFrame:
    effect = add_columns(design.of_scanner, len(design.columns))
    place = {name: k for k, name in enumerate(design.scanners)}
    pairs = found.pairs
    difference = effect[pairs["first"].map(place).to_numpy(int)] - effect[pairs["second"].map(place).to_numpy(int)]
    prior = np.sqrt(difference.power(2) @ variance)
    table = pd.concat([pairs[["first", "second", "rests_on"]], _columns(pairs.index, prior, pairs.contraction)], axis=1)
    table["from_travelers"] = pairs.contraction_travelers
    return table.sort_values("expected_sd", ascending=False, kind="stable", ignore_index=True)


def _inflations(
    design: Design, scales: np.ndarray, removed: EffectGroup | None, disorder: EffectGroup | None
) -> pd.DataFrame:
    """Variance of each contrast over its variance if a term were known, for each term that is not its own."""
    rows, terms = [], _terms(design)
    by_of = {name: design.spec.dimension_of(name) for name in terms}
    for group in (removed, disorder):
        if group is None:
            continue
        for term, columns in terms.items():
            if term == group.name or by_of.get(term) == "participant":
                continue
            known = restrict_design(design, ~columns, design.scales, design.scale_medians)
            kept = find_effects(known, group.name)
            if kept is None or len(kept.levels) < len(group.levels):
                continue
            flat = _with_flat_priors(design, scales, (group.name, "" if by_of.get(term) == "population" else term))
            factor = _variance(design, group, flat) / _variance(known, kept, flat)
            worst = int(factor.argmax())
            row = {"of": group.name, "by": term, "mean": factor.mean(), "largest": factor[worst]}
            rows.append(row | {"level": group.levels[worst]})
    table = pd.DataFrame(rows, columns=["of", "by", "mean", "largest", "level"])
    return table.sort_values("largest", ascending=False, kind="stable", ignore_index=True)


def _with_flat_priors(design: Design, scales: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return the scales with flat priors of some effects, of which a sum of protocol factors has several."""
    components = {family.name for family in design.spec.families if family.component_of in names and family.component_of}
    return np.where([scale.family in {*names, *components} for scale in design.scales], FLAT_SD, scales)


def _variance(design: Design, group: EffectGroup, scales: np.ndarray) -> np.ndarray:
    equal, every = VarianceRatios.equal(len(design.scanners), len(design.correlations)), np.full(design.n_scans, True)
    posterior = ConditionalPosterior.of_scans(design, np.log(scales), equal, every)
    return posterior.variance(sparse.csr_array(group.contrasts))


def _terms(design: Design) -> dict[str, np.ndarray]:
    """Columns of each family and of each covariate, (column,) bool arrays; protocol factors belong to the scanner effect."""
    families = design.families
    terms = {str(name): families == name for name in dict.fromkeys(families) if name not in ("mean", "covariate")}
    if len(design.spec.components) > 1:
        together = np.isin(families, design.spec.components)
        terms = {name: columns for name, columns in terms.items() if name not in design.spec.components}
        terms[design.spec.removed_effect] = together
    labels = {each.level: each.name for each in design.covariates}
    names = np.array([labels[c.level] if c.family == "covariate" else "" for c in design.columns], object)
    return terms | {name: names == name for name in dict.fromkeys(labels.values())}
