"""Groups of the results tree: effects and sufficient statistics, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayesharm.errors import RunFolderError
from bayesharm.likelihood.layout import Entries, Layout
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics, unique_scan_patterns, with_covariates
from bayesharm.model.covariates import Covariate
from bayesharm.model.design import Design, build_design, restrict_design
from bayesharm.model.spec import spec_from_dict
from bayesharm.results.schema import EFFECTS, SUFFICIENT_STATISTICS


def label_effects(
    design: Design,
    effects: Mapping[str, tuple[np.ndarray, np.ndarray]],
    contraction: Mapping[str, np.ndarray],
    n_scans: Mapping[str, np.ndarray],
    correlation: np.ndarray,
    features: np.ndarray,
) -> dict[str, xr.Dataset]:
    """Nodes of all groups of effects.

    Parameters
    ----------
    design : Design
    effects : mapping
        Of each group: means and sds, (level, feature), in the features' units.
    contraction, n_scans : mapping
        Of each group, (level,).
    correlation : (scanner and population, scanner and population) array
    features : (feature,) str array
    """
    n_scanners, nodes, start = len(design.scanners), {}, len(design.scanners)
    scanner = ("scanner", np.array(design.scanners, dtype=object))
    for group in design.effects:
        mean, sd = effects[group.name]
        arrays = {"mean": mean, "sd": sd, "contraction": contraction[group.name], "n_scans": n_scans[group.name]}
        coords = {group.dim: np.array(group.levels, dtype=object), "feature": ("feature", features)}
        if group.name == design.spec.removed_effect:
            arrays["correlation"] = correlation[:n_scanners, :n_scanners]
        if group.dim == "population":
            rows = slice(start, start := start + len(group.levels))
            arrays |= {"correlation": correlation[rows, rows], "with_scanner": correlation[rows, :n_scanners]}
            coords["scanner"] = scanner
        against_reference = group.dim in ("diagnosis", "covariate")
        contrast = "against the reference" if against_reference else "minus the mean of the levels that share a scale"
        nodes[f"/effects/{group.name}"] = EFFECTS.dataset(arrays, coords, {"contrast": contrast}, level=group.dim)
    return nodes


NODE = "statistics"
KEPT = ("dense", "eliminated", "squares")


def keep_statistics(scans: pd.DataFrame, design: Design, layout: Layout, moments: Moments) -> xr.Dataset:
    """Statistics of a study, as :func:`write_statistics` writes them.

    Parameters
    ----------
    scans : DataFrame
        All rows of the scans table.
    design : Design
    layout : Layout
    moments : Moments
        Of all features.
    """
    kinds = unique_scan_patterns(scans.iloc[design.rows], design.spec)
    return write_statistics(SufficientStatistics(kinds, design, layout, design.class_size, moments))


def write_statistics(statistics: SufficientStatistics) -> xr.Dataset:
    """Statistics as a node of the posterior."""
    layout, moments = statistics.layout, statistics.moments
    (dense_class, dense_column), (eliminated_class, eliminated_column) = layout.dense, layout.eliminated
    group = SUFFICIENT_STATISTICS.dataset(
        {
            **moments._asdict(),
            "dense_class": dense_class,
            "dense_column": dense_column,
            "dense_gram": layout.dense_gram,
            "eliminated_class": eliminated_class,
            "eliminated_column": eliminated_column,
            "eliminated_gram": layout.eliminated_gram,
            "cross_gram": layout.cross_gram,
            "size": statistics.size,
        },
        {},
        {
            "columns": list(statistics.design.columns),
            "scales": list(statistics.design.scales),
            "scale_medians": statistics.design.scale_medians.tolist(),
            "covariates": [asdict(covariate) for covariate in statistics.design.covariates],
        },
    )
    return group.assign({f"kind_{name}": (("kind",), column.to_numpy()) for name, column in statistics.kinds.items()})


def read_statistics(posterior: Any) -> SufficientStatistics:
    """Statistics that a posterior keeps.

    Raises
    ------
    RunFolderError
        It keeps none.
    """
    if NODE not in posterior.tree.children:
        raise RunFolderError(
            "This posterior keeps no statistics of its scans, so that it cannot learn from new ones.",
            expected="one that 'bayesharm fit' has made",
            do="fit again",
        )
    node, spec = posterior.tree[NODE].to_dataset(), spec_from_dict(posterior.run["spec"])
    kinds = pd.DataFrame({str(name)[5:]: node[name].values for name in node if str(name).startswith("kind_")})
    kinds = kinds.astype({name: object for name in kinds if name != "traveling"})
    covariates = tuple(Covariate(**{**each, "categories": tuple(each["categories"])}) for each in node.attrs["covariates"])
    layout = Layout(
        Entries(node["dense_class"].values, node["dense_column"].values),
        node["dense_gram"].values,
        Entries(node["eliminated_class"].values, node["eliminated_column"].values),
        node["eliminated_gram"].values,
        node["cross_gram"].values,
    )
    moments = Moments(*(node[name].values for name in KEPT))
    design = build_design(with_covariates(kinds, covariates), spec, covariates)
    known = np.isin(design.columns, node.attrs["columns"])
    design = restrict_design(design, known, tuple(node.attrs["scales"]), np.array(node.attrs["scale_medians"]))
    return SufficientStatistics(kinds, design, layout, node["size"].values, moments)
