"""The edges of a connectome: their regions, their places in the matrix, and matrices as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bayesharm.errors import InputError, shorten


@dataclass(frozen=True)
class Edges:
    """The edges of a connectome and their places in the matrix.

    Attributes
    ----------
    regions : list of str
    row, column : (edge,) int arrays
        Places in the lower triangle.
    """

    regions: list[str]
    row: np.ndarray
    column: np.ndarray

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Edges:
        """Find the regions in the names of all edges, ``edge_<row>_<column>``, in the order of the lower triangle.

        Names of regions may contain ``_``. The lengths of the names of three edges between three regions say where each
        region ends.

        Raises
        ------
        InputError
            The features are not the edges of a connectome.
        """
        n = round((1 + np.sqrt(1 + 8 * len(names))) / 2)
        row, column = np.tril_indices(n, -1)
        labels = [name.removeprefix("edge_") for name in names]
        regions: list[str] = []
        if len(row) == len(names) and n >= 3:
            a, b, c = (len(labels[k]) - 1 for k in range(3))  # regions 1 and 0, 2 and 0, 2 and 1
            length = (a + b - c) // 2
            regions = [labels[0][a - length + 1 :]]
            regions += [labels[k * (k - 1) // 2][: -length - 1] for k in range(1, n)]
        elif len(names) == 1:
            regions = labels[0].split("_")[::-1]
        if len(regions) != n or [f"edge_{regions[i]}_{regions[j]}" for i, j in zip(row, column, strict=True)] != list(names):
            raise InputError(
                "The features are not the edges of connectivity matrices.",
                got=shorten(names),
                expected="one feature for each pair of regions",
                do="for other features use 'bayesharm fit' and 'bayesharm harmonize'",
            )
        return cls(regions, row, column)

    def places_of(self, names: Sequence[str]) -> np.ndarray:
        """Return the numbers of these edges among all edges, in the order of the names."""
        number = {
            f"edge_{self.regions[i]}_{self.regions[j]}": k
            for k, (i, j) in enumerate(zip(self.row, self.column, strict=True))
        }
        return np.array([number[name] for name in names])

    def write_matrix(self, path: Path, values: np.ndarray, diagonal: float) -> None:
        """Write the matrix of one scan as a .tsv with the column ``Node`` and one column per region; missing: ``n/a``.

        Parameters
        ----------
        path : path
        values : (edge,) array
        diagonal : float
            Value on the diagonal, missing for regions without any edge.
        """
        n = len(self.regions)
        matrix = np.full((n, n), np.nan)
        matrix[self.row, self.column] = matrix[self.column, self.row] = values
        np.fill_diagonal(matrix, np.where(np.isnan(matrix).all(axis=0), np.nan, diagonal))
        cells = "\t%.7g" * n
        lines = [
            region + (cells % tuple(row)).replace("nan", "n/a") for region, row in zip(self.regions, matrix, strict=True)
        ]
        path.write_text("\n".join(["\t".join(["Node", *self.regions]), *lines, ""]), encoding="utf-8")
