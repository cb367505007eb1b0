"""What a run keeps of its scans: enough to learn from new scans without the old ones.

Given the scales, all that a fit takes from its scans are sums of products (:mod:`bayesharm.moments`). They are kept with the
kinds of scans there were, one row for scans that are alike; people scanned once are nameless there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.columns import Covariate
from bayesharm.design import FIXED, Design, EffectGroup, build_design
from bayesharm.errors import RunFolderError
from bayesharm.io.tables import to_labels
from bayesharm.moments import Entries, Layout, Moments
from bayesharm.plan import Plan, make_plan
from bayesharm.spec import ModelSpec, spec_from_dict

if TYPE_CHECKING:
    import xarray as xr

NODE = "statistics"
NAMELESS = "nameless person {}"
KEPT = ("dense", "eliminated", "squares")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums of products of the scans of a study.

    Attributes
    ----------
    kinds : DataFrame
        A table of scans, one row for each kind.
    design : Design
        Of the kinds: its columns, scales and noise classes are those of the study, its scans are not.
    layout : Layout
    size : (class,) int array
        Numbers of scans.
    moments : Moments
        Of the standardized features.
    """

    kinds: pd.DataFrame
    design: Design
    layout: Layout
    size: np.ndarray
    moments: Moments

    @property
    def count(self) -> np.ndarray:
        """Number of scans of each column, (column,): indicators' sums of squares."""
        dense = np.diag(self.layout.dense_gram.sum(0))
        own = np.bincount(self.layout.eliminated.columns, self.layout.eliminated_gram)
        return np.concatenate([dense, own]).round().astype(int)

    @property
    def plan(self) -> Plan:
        """The design in the order that the likelihood works."""
        return make_plan(self.design, self.layout)._replace(size=self.size.astype(np.int32))


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
    kinds = find_kinds(scans.iloc[design.rows], design.spec)
    return write_statistics(Statistics(kinds, design, layout, design.class_size, moments))


def write_statistics(statistics: Statistics) -> xr.Dataset:
    """Statistics as a node of the posterior."""
    import xarray as xr

    layout, moments = statistics.layout, statistics.moments
    (dense_class, dense_column), (eliminated_class, eliminated_column) = layout.dense, layout.eliminated
    return xr.Dataset(
        {
            "dense": (("dense_entry", "feature"), moments.dense),
            "eliminated": (("eliminated_entry", "feature"), moments.eliminated),
            "squares": (("noise_class", "feature"), moments.squares),
            "dense_class": (("dense_entry",), dense_class),
            "dense_column": (("dense_entry",), dense_column),
            "dense_gram": (("noise_class", "row", "column"), layout.dense_gram),
            "eliminated_class": (("eliminated_entry",), eliminated_class),
            "eliminated_column": (("eliminated_entry",), eliminated_column),
            "eliminated_gram": (("eliminated_entry",), layout.eliminated_gram),
            "cross_gram": (("eliminated_entry", "column"), layout.cross_gram),
            "size": (("noise_class",), statistics.size),
        }
        | {f"kind_{name}": (("kind",), values.to_numpy()) for name, values in statistics.kinds.items()},
        attrs={
            "columns": list(statistics.design.columns),
            "scales": list(statistics.design.scales),
            "scale_medians": statistics.design.scale_medians.tolist(),
            "covariates": [asdict(covariate) for covariate in statistics.design.covariates],
            "units": "standard deviations of a feature, from its centre",
        },
    )


def find_kinds(used: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """One row for scans that are alike in all but covariates; two where a person was scanned alike more often than once."""
    by = {family.by for family in spec.families}
    wanted = {"participant_id": True, "scanner": True, "site": "population" in by}
    wanted |= {"diagnosis": bool(by & {"diagnosis", "population"})} | {family.by: True for family in spec.factors}
    names = [name for name, is_used in wanted.items() if is_used and name in used]
    kinds = pd.DataFrame({name: to_labels(used[name])[0].astype(object) for name in names})
    if "traveling" in used:
        kinds["traveling"] = used["traveling"].to_numpy(bool)
        names.append("traveling")
    once = ~kinds.participant_id.duplicated(keep=False)
    kinds.loc[once, "participant_id"] = ""
    again = kinds.groupby(names, dropna=False).cumcount()
    kinds = kinds[(again < 2) & ~(once & (again > 0))].reset_index(drop=True)
    nameless = np.flatnonzero(kinds.participant_id == "")
    kinds.loc[nameless, "participant_id"] = [NAMELESS.format(k) for k in range(len(nameless))]
    return kinds


def read_statistics(posterior: Any) -> Statistics:
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
    return Statistics(kinds, design, layout, node["size"].values, moments)


def restrict_design(design: Design, kept: np.ndarray, scales: tuple[str, ...], scale_medians: np.ndarray) -> Design:
    """A design without some of its columns, its scales in an order that is given.

    Parameters
    ----------
    design : Design
    kept : (column,) bool array
    scales : tuple of str
        Those of the columns that are kept, and perhaps others.
    scale_medians : (scale,) array
    """
    place = {name: k for k, name in enumerate(scales)}
    keep, now = np.flatnonzero(kept), np.cumsum(kept) - 1
    return replace(
        design,
        scales=scales,
        scale_medians=scale_medians,
        columns=tuple(design.columns[k] for k in keep),
        matrix=design.matrix[:, keep],
        column_scale=np.array([FIXED if k == FIXED else place[design.scales[k]] for k in design.column_scale[keep]]),
        column_sd=design.column_sd[keep],
        n_dense=int((keep < design.n_dense).sum()),
        once_scale=place[design.scales[design.once_scale]],
        effects=tuple(_restrict(group, kept, now) for group in design.effects if kept[group.columns].all(1).any()),
        of_scanner=now[design.of_scanner],
    )


def _restrict(group: EffectGroup, kept: np.ndarray, now: np.ndarray) -> EffectGroup:
    """A group without levels whose columns are not kept."""
    there = kept[group.columns].all(1)
    return replace(
        group,
        levels=tuple(np.array(group.levels, object)[there]),
        columns=now[group.columns[there]],
        mates=group.mates[there],
        weight=group.weight[there],
        n_columns=int(kept.sum()),
    )


def with_covariates(kinds: pd.DataFrame, covariates: tuple[Covariate, ...]) -> pd.DataFrame:
    """The kinds as a table of scans; with values that any scan could have, since columns do not depend on them."""
    kinds = kinds.assign(scan_id=np.arange(len(kinds)).astype(str))
    return kinds.assign(**{each.name: each.mean if each.category is None else each.categories[0] for each in covariates})
