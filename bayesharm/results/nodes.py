"""Groups of the results tree: effects and sufficient statistics, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
import xarray as xr

from bayesharm.likelihood.counts import count_scans, index_counts
from bayesharm.likelihood.grams import Entries, Grams, compute_grams
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.sufficient_statistics import SufficientStatistics, unique_scan_patterns, with_numbers
from bayesharm.model.contrasts import EffectGroup, removable_together
from bayesharm.model.covariates import covariates_from_dict, covariates_to_dict
from bayesharm.model.design import Design, build_design
from bayesharm.model.labels import NOISE_RATIO, Column, Population, Scale
from bayesharm.model.restriction import restrict_design
from bayesharm.model.slopes import SlopeColumn
from bayesharm.model.spec import ModelSpec
from bayesharm.model.standards import Standards
from bayesharm.results.schema import EFFECTS, SUFFICIENT_STATISTICS

USUAL_SD = 3.0  # sds of a column on each side of its mean: the range in runs that do not keep it


def scale_coordinates(design: Design) -> dict[str, tuple[str, np.ndarray]]:
    """Return coordinates along `family`: the printed label of each scale, and its parts, `term` and `group`."""
    names = {
        "family": design.scale_labels,
        "term": [s.family for s in design.scales],
        "group": [s.group for s in design.scales],
    }
    return {name: ("family", np.array(values, dtype=object)) for name, values in names.items()}


def sd_coordinates(design: Design) -> dict[str, tuple[str, np.ndarray]]:
    """Return the same without noise ratios."""
    return {name: (dim, values[: design.n_eta]) for name, (dim, values) in scale_coordinates(design).items()}


def hyper_coordinates(design: Design) -> dict[str, tuple[str, np.ndarray]]:
    """Return the same for the groups of scales that share hyperparameters: noise ratios are one, `noise_ratio`."""
    parts = {"family": NOISE_RATIO, "term": NOISE_RATIO, "group": ""}
    n_groups = len(design.hyper_groups)
    return {
        name: (dim, np.append(values, np.array(parts[name], object))[:n_groups])
        for name, (dim, values) in sd_coordinates(design).items()
    }


def median_log_scales(scales: xr.Dataset) -> np.ndarray:
    """Logarithms of the posterior medians of the scales of standardized features, (scale, feature).

    Parameters
    ----------
    scales : Dataset
        The node `/scales`.
    """
    unit = np.where(scales["term"].values[:, None] == NOISE_RATIO, 1.0, scales["feature_scale"].values)
    return np.log(scales["q50"].values / unit)


def read_scales(node: xr.Dataset) -> dict[str, Scale]:
    """Read the family and the group of each scale, by its printed label, from the coordinates of a node."""
    parts = zip(*(node[name].values for name in ("family", "term", "group")), strict=True)
    return {str(label): Scale(str(term), str(group)) for label, term, group in parts}


def level_coordinates(design: Design, group: EffectGroup) -> dict[str, tuple[str, np.ndarray]]:
    """Return coordinates along the levels of an effect: printed labels; of populations also `site` and `diagnosis`."""
    names = {group.dim: list(group.levels)}
    if group.dim == "population":
        columns = [design.columns[k] for k in group.columns[:, 0]]
        names |= {"site": [column.level for column in columns], "diagnosis": [column.group for column in columns]}
    return {name: (group.dim, np.array(values, dtype=object)) for name, values in names.items()}


def read_populations(node: xr.Dataset) -> list[Population]:
    """Read the populations of an effect from its coordinates `site` and `diagnosis`."""
    pairs = zip(node["site"].values, node["diagnosis"].values, strict=True)
    return [Population(str(site), str(diagnosis)) for site, diagnosis in pairs]


def label_effects(
    design: Design,
    effects: Mapping[str, tuple[np.ndarray, np.ndarray]],
    contraction: Mapping[str, np.ndarray],
    n_scans: Mapping[str, np.ndarray],
    correlation: np.ndarray,
    features: np.ndarray,
    squares: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, xr.Dataset]:
    """Nodes of all groups of effects, by name of the group.

    Parameters
    ----------
    design : Design
    effects : mapping
        Of each group: means and sds, (level, feature), in the features' units.
    contraction, n_scans : mapping
        Of each group, (level,).
    correlation : (level, level) array
        Of scanners, of the slopes of their effects, and of populations.
    features : (feature,) str array
    squares : mapping, optional
        Of a group: draws of the mean square over features of each level, (draw, level), and the mean variance of the square
        in a feature, (level,).
    """
    n_scanners, nodes = len(design.scanners), {}
    together, rows, start = removable_together(design.effects, design.spec), {}, 0
    for group in together:
        rows[group.name] = slice(start, start := start + len(group.levels))
    slopes = [group.name for group in together if group.dim == "scanner"][1:]
    for group in design.effects:
        mean, sd = effects[group.name]
        arrays = {"mean": mean, "sd": sd, "contraction": contraction[group.name], "n_scans": n_scans[group.name]}
        coords = {**level_coordinates(design, group), "feature": ("feature", features)}
        if squares and group.name in squares:
            arrays["mean_square"], arrays["square_variance"] = squares[group.name]
        if (of_group := rows.get(group.name)) is not None:
            arrays["correlation"] = correlation[of_group, of_group]
            if group.name != design.spec.removed_effect:
                arrays["with_scanner"] = correlation[of_group, :n_scanners]
            if slopes and group.dim == "population":
                arrays["with_slope"] = correlation[of_group, rows[slopes[0]]]
        against_reference = group.dim in ("diagnosis", "covariate")
        contrast = "against the reference" if against_reference else "minus the mean of the levels that share a scale"
        nodes[group.name] = EFFECTS.dataset(arrays, coords, {"contrast": contrast}, level=group.dim)
    return nodes


def keep_statistics(scans: pd.DataFrame, design: Design, moments: Moments) -> xr.Dataset:
    """Statistics of a study, as :func:`write_statistics` writes them.

    Parameters
    ----------
    scans : DataFrame
        All rows of the scans table.
    design : Design
    moments : Moments
        Of all features.
    """
    patterns = unique_scan_patterns(scans.iloc[design.rows], design.spec, design.standards.noise_unit)
    counts = count_scans(design, index_counts(design)).sum(axis=1)
    return write_statistics(
        SufficientStatistics(patterns, design, compute_grams(design), design.class_size, moments, counts)
    )


def write_statistics(statistics: SufficientStatistics) -> xr.Dataset:
    """Statistics as a node of the posterior."""
    grams, moments = statistics.grams, statistics.moments
    (dense_class, dense_column), (eliminated_class, eliminated_column) = grams.dense, grams.eliminated
    labels = statistics.patterns.drop(columns="traveling", errors="ignore")
    traveling = {"pattern_traveling": statistics.patterns["traveling"]} if "traveling" in statistics.patterns else {}
    return SUFFICIENT_STATISTICS.dataset(
        {
            **moments.to_arrays(),
            "dense_class": dense_class,
            "dense_column": dense_column,
            "dense_gram": grams.dense_gram,
            "eliminated_class": eliminated_class,
            "eliminated_column": eliminated_column,
            "eliminated_gram": grams.eliminated_gram,
            "cross_gram": grams.cross_gram,
            "coupled_class": grams.coupled.classes,
            "coupled_column": grams.coupled.columns,
            "coupled_gram": grams.coupled_gram,
            "size": statistics.size,
            "scan_counts": statistics.counts,
            "scan_patterns": labels.map(str).to_numpy(object),  # text alone can be written
            **traveling,
        },
        {"table_column": np.array(labels.columns, dtype=object)},
        {
            "columns": [list(column) for column in statistics.design.columns],
            "scales": [list(scale) for scale in statistics.design.scales],
            "scale_medians": statistics.design.scale_medians.tolist(),
            **covariates_to_dict(statistics.design.covariates),
            "slopes": [asdict(slope) for slope in statistics.design.standards.slopes],
            "noise_unit": statistics.design.standards.noise_unit,
            "ranges": {name: list(limits) for name, limits in statistics.design.standards.ranges.items()},
        },
    )


def read_scan_patterns(node: xr.Dataset) -> pd.DataFrame:
    """Read the table with one row for each scan pattern."""
    labels, names = node["scan_patterns"].values.astype(object), [str(name) for name in node["table_column"].values]
    patterns = pd.DataFrame(labels, columns=names, dtype=object)
    return patterns.assign(traveling=node["pattern_traveling"].values) if "pattern_traveling" in node else patterns


def read_ranges(node: xr.Dataset, spec: ModelSpec) -> dict[str, tuple[float, float]]:
    """Read the range of each numeric column; where a run does not keep it, a usual one about the mean."""
    if ranges := node.attrs.get("ranges"):
        return {name: (low, high) for name, (low, high) in ranges.items()}
    by, attrs = {family.name: family.by for family in spec.families}, node.attrs
    moments = {each["name"]: (each["mean"], each["sd"]) for each in attrs["covariates"] if each["category"] is None}
    moments = {name: moments[name] for name in moments if name in spec.covariates}
    moments |= {
        each["column"]: (each["center"], each["sd"]) for each in attrs["slopes"] if by[each["family"]] != "participant"
    }
    return {name: (mean - USUAL_SD * sd, mean + USUAL_SD * sd) for name, (mean, sd) in moments.items()}


def read_statistics(node: xr.Dataset, spec: ModelSpec) -> SufficientStatistics:
    """Read the sufficient statistics that :func:`write_statistics` wrote."""
    patterns = read_scan_patterns(node)
    covariates = covariates_from_dict(node.attrs)
    slopes = tuple(SlopeColumn(**each) for each in node.attrs["slopes"])
    standards = Standards(covariates, slopes, node.attrs["noise_unit"], read_ranges(node, spec))
    grams = Grams(
        Entries(node["dense_class"].values, node["dense_column"].values),
        node["dense_gram"].values,
        Entries(node["eliminated_class"].values, node["eliminated_column"].values),
        node["eliminated_gram"].values,
        node["cross_gram"].values,
        Entries(node["coupled_class"].values, node["coupled_column"].values),
        node["coupled_gram"].values,
    )
    moments = Moments.from_arrays({name: node[name].values for name in Moments._fields if name in node})
    scales = tuple(Scale(*parts) for parts in node.attrs["scales"])
    design = build_design(with_numbers(patterns, standards), spec, standards, scales)
    known = {Column(*parts) for parts in node.attrs["columns"]}
    is_known = np.array([column in known for column in design.columns])
    design = restrict_design(design, is_known, scales, np.array(node.attrs["scale_medians"]))
    return SufficientStatistics(patterns, design, grams, node["size"].values, moments, node["scan_counts"].values)
