"""A run and the tables made from it, each once, for all plots and the report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bayesharm.analysis.population_structure import PopulationTest
from bayesharm.analysis.scanner_similarity import ScannerSimilarity, scanner_similarity
from bayesharm.analysis.summary import Summary, summarize
from bayesharm.analysis.variance_components import VarianceComponents, measure_levels, variance_components
from bayesharm.data.parcellation import read_edge_regions
from bayesharm.errors import InputError, shorten
from bayesharm.io.tables import TableSource, read_table, table_columns
from bayesharm.model.labels import Scale
from bayesharm.results.nodes import read_scales
from bayesharm.results.posterior import Posterior

PLACES = ["x", "y", "z"]


@dataclass(frozen=True, eq=False)
class RunView:
    """A run, with what is known of its features besides.

    Attributes
    ----------
    posterior : Posterior
    edge_table, networks : path or DataFrame, optional
        As for :func:`bayesharm.variance_components`.
    coordinates : path or DataFrame, optional
        Table of regions: `region`, and `x`, `y`, `z` in mm of MNI space.
    populations : Populations, optional
        As of :func:`bayesharm.test_populations`, which needs the data and not only the run.

    Raises
    ------
    InputError
        There are coordinates or networks, but no nodes that would say what they are of.
    """

    posterior: Posterior
    edge_table: TableSource | None = None
    networks: TableSource | None = None
    coordinates: TableSource | None = None
    populations: PopulationTest | None = None

    def __post_init__(self) -> None:
        if self.edge_table is None and not (self.networks is None and self.coordinates is None):
            raise InputError(
                "Regions are given, but not which of them a feature joins.",
                got="networks without edge_table" if self.coordinates is None else "coordinates without edge_table",
                expected="both",
                do="give a table of features with node_a and node_b too (--edge-table)",
            )

    @cached_property
    def summary(self) -> Summary:
        """As of :func:`bayesharm.summarize`."""
        return summarize(self.posterior)

    @cached_property
    def sources(self) -> VarianceComponents:
        """As of :func:`bayesharm.variance_components`."""
        return variance_components(self.posterior, self.edge_table, self.networks)

    @cached_property
    def similarity(self) -> ScannerSimilarity:
        """As of :func:`bayesharm.scanner_similarity`."""
        return scanner_similarity(self.posterior)

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Family and diagnosis of each scale, by its label."""
        return read_scales(self.posterior.tree["scales"].to_dataset())

    @property
    def removed(self) -> str:
        """The family by scanner that harmonizing takes out: measurement bias, in most models."""
        return self.posterior.spec.removed_effect

    @property
    def mapped(self) -> str:
        """The family whose sizes maps show unless told otherwise: what is removed, or the largest of its parts."""
        ranking = getattr(self.sources, "ranking", None)
        return self.removed if ranking is None else str(ranking.index[0])

    @cached_property
    def scanners(self) -> pd.DataFrame:
        """Scanners, largest bias first: `rms` of it and `noise_ratio`, with their intervals."""
        bias = measure_levels(self.posterior).loc[self.removed]
        ratio = self.summary.scanners.filter(like="noise_ratio")
        return bias.join(ratio).sort_values("rms", ascending=False, kind="stable").rename_axis("scanner")

    @property
    def unit(self) -> str:
        """What effects are in, for the label of an axis."""
        return "features' own units" if self.posterior.is_single_modality else "sd of each feature over the scans"

    @cached_property
    def bias(self) -> pd.DataFrame:
        """Posterior mean bias, scanner × feature, in `unit`."""
        mean = self.posterior.effect(self.removed)["mean"].values
        divide = 1.0 if self.posterior.is_single_modality else self.posterior.tree["scales"].to_dataset()["unit"].values
        return pd.DataFrame(mean / divide, self.posterior.scanners, self.posterior.features)

    @cached_property
    def places(self) -> pd.DataFrame:
        """`x`, `y` and `z` of each region that the run's edges join, in mm.

        Raises
        ------
        InputError
            There are no coordinates, they lack a column or regions, or are not numbers.
        """
        if self.coordinates is None:
            raise InputError(
                "A map of the brain needs the places of its regions.",
                got="no table of coordinates",
                expected="columns region, x, y, z (mm, MNI)",
                do="give it with --coordinates",
            )
        there = table_columns(self.coordinates, "the coordinates")
        if missing := [name for name in ("region", *PLACES) if name not in there]:
            raise InputError(
                f"The table of coordinates lacks {shorten(missing)}.",
                got=f"columns {shorten(there, 10)}",
                expected="columns region, x, y, z (mm, MNI)",
                do="add the columns",
            )
        table = read_table(self.coordinates, text=("region",), columns=("region", *PLACES), what="the coordinates")
        places = table.set_index("region")[PLACES].apply(pd.to_numeric, errors="coerce")
        regions = self.regions(self.removed).index
        good = places.index[np.isfinite(places.to_numpy(float)).all(1) & ~places.index.duplicated(keep=False)]
        if len(absent := regions.difference(good)):
            raise InputError(
                "Some regions have no place, or several.",
                got=shorten(absent),
                expected="one row of numbers for each region of the edges",
                do="complete the table of coordinates",
            )
        return places.loc[regions]

    @cached_property
    def ends(self) -> pd.DataFrame:
        """`node_a` and `node_b`, the regions that each feature joins.

        Raises
        ------
        InputError
            There is no table of edges, or it does not fit the run.
        """
        if self.edge_table is None:
            raise InputError(
                "This plot needs to know which regions a feature joins.",
                got="no table of edges",
                expected="columns feature, node_a, node_b",
                do="give it with --edge-table",
            )
        return read_edge_regions(self.edge_table, self.posterior.features)

    def regions(self, family: str) -> pd.DataFrame:
        """Sizes of a family by region, the largest effects first.

        Raises
        ------
        InputError
            Nothing says which regions a feature joins.
        """
        return self._of_family("regions", "--edge-table", family).sort_values("finite_sd", ascending=False, kind="stable")

    def networks_of(self, family: str) -> pd.DataFrame:
        """Mean effects of a family, network × network.

        Raises
        ------
        InputError
            Nothing says which regions a feature joins, or their networks.
        """
        pairs = self._of_family("networks", "--edge-table and --networks", family)["finite_sd"]
        square = pairs.unstack("other")
        names = sorted({*square.index, *square.columns})
        square = square.reindex(index=names, columns=names)
        return square.fillna(square.T)

    def _of_family(self, name: str, options: str, family: str) -> pd.DataFrame:
        table = getattr(self.sources, name)
        if table is None:
            raise InputError(
                f"A plot of {name} needs to know which {name} a feature joins.",
                got="no such table",
                expected="as for 'bayesharm sources'",
                do=f"give it with {options}",
            )
        families = table.index.unique("family")
        if family not in families:
            raise InputError(
                f"The run has no {family!r} effects of regions.",
                expected=f"one of {shorten(families, 20)}",
                do="choose one of these",
            )
        return table.xs(family, level="family")


def find(run: Posterior | RunView) -> RunView:
    """A posterior as findings; findings as they are, with what they have computed already."""
    return run if isinstance(run, RunView) else RunView(run)
