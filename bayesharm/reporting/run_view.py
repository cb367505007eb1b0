"""A run with the tables that figures and the report share, each computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bayesharm.analysis.population_structure import PopulationTest
from bayesharm.analysis.scanner_similarity import ScannerSimilarity, scanner_similarity
from bayesharm.analysis.summary import Summary, is_estimated, summarize
from bayesharm.analysis.units import common_units, feature_scale, fit_units
from bayesharm.analysis.variance_components import VarianceComponents, summarize_levels, variance_components
from bayesharm.data.parcellation import group_by_networks, read_edge_regions
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, table_columns
from bayesharm.model.labels import Scale
from bayesharm.reporting.before_after import BeforeAfter
from bayesharm.results.nodes import read_scales
from bayesharm.results.posterior import Posterior

COORDINATES = ["x", "y", "z"]
MOST_MM = 150  # largest coordinate in MNI space


@dataclass(frozen=True, eq=False)
class RunView:
    """A run, with optional tables on the brain regions of its features.

    Attributes
    ----------
    posterior : Posterior
    edge_table, networks : path or DataFrame, optional
        As for :func:`bayesharm.variance_components`.
    coordinates : path or DataFrame, optional
        Table of regions: `region`, and `x`, `y`, `z` in mm of MNI space.
    populations : PopulationTest, optional
        From :func:`bayesharm.test_populations`, which needs the data besides the run.
    folder : str
        Name of the run folder in the commands of the report.

    Raises
    ------
    InputError
        There are networks or coordinates, but no `edge_table` that names the regions of each feature.
    """

    posterior: Posterior
    edge_table: TableSource | None = None
    networks: TableSource | None = None
    coordinates: TableSource | None = None
    populations: PopulationTest | None = None
    folder: str = "run"

    def __post_init__(self) -> None:
        if self.edge_table is None and not (self.networks is None and self.coordinates is None):
            raise InputError(
                "Regions are given, but not which of them a feature connects.",
                got="networks without edge_table" if self.coordinates is None else "coordinates without edge_table",
                expected="both",
                do="add a table of features with node_a and node_b (--edge-table)",
            )

    @cached_property
    def summary(self) -> Summary:
        """Result of :func:`bayesharm.summarize`."""
        return summarize(self.posterior)

    @cached_property
    def variance_components(self) -> VarianceComponents:
        """Result of :func:`bayesharm.variance_components`."""
        return variance_components(self.posterior, self.edge_table, self.networks)

    @cached_property
    def similarity(self) -> ScannerSimilarity:
        """Result of :func:`bayesharm.scanner_similarity`."""
        return scanner_similarity(self.posterior)

    @cached_property
    def before_after(self) -> BeforeAfter:
        """Differences between scanners before and after harmonization."""
        return BeforeAfter.of(self.posterior)

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Family and diagnosis of each scale, by its label."""
        return read_scales(self.posterior.scales)

    @property
    def is_preview(self) -> bool:
        """Whether the run is a preview, which has no variance components."""
        return bool(self.posterior.preview_notice)

    @property
    def removed_effect(self) -> str:
        """Family of effects that harmonizing removes: measurement bias, in most models."""
        return self.posterior.spec.removed_effect

    @property
    def mapped_effect(self) -> str:
        """Family that brain maps show by default: the removed effect, or its largest component."""
        ranking = self.variance_components.ranking
        return self.removed_effect if ranking is None else str(ranking.index[0])

    @cached_property
    def scanners(self) -> pd.DataFrame:
        """Scanners, largest bias first: root mean square `rms` of the bias, and estimated ratios, with their intervals."""
        bias = summarize_levels(self.posterior).loc[self.removed_effect]
        table = self.summary.scanners
        shown = ["noise_ratio", *(ratio for ratio in ("bias_ratio", "gain") if is_estimated(table, ratio))]
        ratios = table[[f"{ratio}{end}" for ratio in shown for end in ("", "_q05", "_q95")]]
        return bias.join(ratios).sort_values("rms", ascending=False, kind="stable").rename_axis("scanner")

    @property
    def units(self) -> str:
        """Units of effects, for the label of an axis."""
        return common_units(self.posterior)

    @property
    def feature_units(self) -> str:
        """Units of the values of a feature."""
        return fit_units(self.posterior)

    @cached_property
    def bias(self) -> pd.DataFrame:
        """Posterior mean bias, scanner × feature, in `units`."""
        mean = self.posterior.effect(self.removed_effect)["mean"].values / feature_scale(self.posterior)
        return pd.DataFrame(mean, self.posterior.scanners, self.posterior.features)

    @cached_property
    def region_coordinates(self) -> pd.DataFrame:
        """`x`, `y` and `z` in mm of each region that the features connect.

        Raises
        ------
        InputError
            There are no coordinates, or they lack a column or regions, or are not numbers or outside of the brain.
        """
        if self.coordinates is None:
            raise InputError(
                "A map of the brain needs the coordinates of its regions.",
                got="no table of coordinates",
                expected="columns region, x, y, z (mm, MNI)",
                do="add it with --coordinates",
            )
        columns = table_columns(self.coordinates, "the coordinates")
        if missing := [name for name in ("region", *COORDINATES) if name not in columns]:
            raise InputError(
                f"The table of coordinates lacks {shorten(missing)}.",
                got=f"columns {shorten(columns, 10)}",
                expected="columns region, x, y, z (mm, MNI)",
                do="add the columns",
            )
        table = read_table(self.coordinates, text=("region",), columns=("region", *COORDINATES), what="the coordinates")
        coordinates = table.set_index("region")[COORDINATES].apply(pd.to_numeric, errors="coerce")
        is_valid = np.isfinite(coordinates.to_numpy(float)).all(1) & ~coordinates.index.duplicated(keep=False)
        regions = self.regions(self.removed_effect).index
        if len(absent := regions.difference(coordinates.index[is_valid])):
            raise InputError(
                "Some regions have no coordinates, or several.",
                got=shorten(absent),
                expected="one row of numbers for each region of the edges",
                do="complete the table of coordinates",
            )
        if len(far := regions[(coordinates.loc[regions].abs() > MOST_MM).any(axis=1)]):
            raise InputError(
                "Some regions are outside of the brain.",
                got=f"{shorten(far)} at {coordinates.loc[far[0]].tolist()}",
                expected=f"coordinates in mm of MNI space, between -{MOST_MM} and {MOST_MM}",
                do="correct the table of coordinates",
            )
        return coordinates.loc[regions]

    @cached_property
    def edges(self) -> pd.DataFrame:
        """`node_a` and `node_b`, the two regions that each feature connects.

        Raises
        ------
        InputError
            There is no table of edges, or it does not fit the run.
        """
        if self.edge_table is None:
            raise InputError(
                "This figure needs the regions that each feature connects.",
                got="no table of edges",
                expected="columns feature, node_a, node_b",
                do="add it with --edge-table",
            )
        return read_edge_regions(self.edge_table, self.posterior.features)

    @cached_property
    def network_pairs(self) -> pd.Series:
        """The two networks that each feature connects, as text."""
        pairs, member = group_by_networks(self.edges, self.networks)
        names = np.array([" – ".join(pair) for pair in pairs], object)
        return pd.Series(names[np.argmax(member > 0, axis=0)], self.posterior.features)

    def regions(self, family: str) -> pd.DataFrame:
        """Return the sizes of a family by region, the largest effects first.

        Raises
        ------
        InputError
            There is no table of edges.
        """
        return self._of_family("regions", "--edge-table", family).sort_values("finite_sd", ascending=False, kind="stable")

    def networks_of(self, family: str) -> pd.DataFrame:
        """Return the mean effects of a family, network × network.

        Raises
        ------
        InputError
            There is no table of edges or of networks.
        """
        pairs = self._of_family("networks", "--edge-table and --networks", family)["finite_sd"]
        square = pairs.unstack("other")
        names = sorted({*square.index, *square.columns})
        square = square.reindex(index=names, columns=names)
        return square.fillna(square.T)

    def _of_family(self, name: str, options: str, family: str) -> pd.DataFrame:
        table = getattr(self.variance_components, name)
        if table is None:
            raise InputError(
                f"A figure of {name} needs the {name} that each feature connects.",
                got="no such table",
                expected="as for 'bayesharm sources'",
                do=f"add it with {options}",
            )
        families = table.index.unique("family")
        if family not in families:
            raise InputError(
                f"The run has no {family!r} effects of regions.",
                expected=f"one of {shorten(families, 20)}",
                do="choose one of these",
            )
        return table.xs(family, level="family")


def as_run_view(run: Posterior | RunView) -> RunView:
    """Return a view of a posterior; a view is returned as it is, with the tables that it has computed already."""
    return run if isinstance(run, RunView) else RunView(run)
