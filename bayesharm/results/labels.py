"""Labels of the results tree: ordinary strings in memory and on disk, and numbers of chains and draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

NUMBERED = ("chain", "draw")  # dimensions whose coordinates are numbers from 0, as ArviZ expects


def number_draws(node: xr.Dataset) -> xr.Dataset:
    """Number chains and draws that have no coordinates."""
    return node.assign_coords(
        {dim: np.arange(node.sizes[dim]) for dim in NUMBERED if dim in node.sizes and dim not in node.coords}
    )


def for_disk(node: xr.Dataset) -> xr.Dataset:
    """Give text a fixed width: whoever opens the files without bayesharm gets ordinary strings."""
    return _convert(node, "O", str)


def for_memory(node: xr.Dataset) -> xr.Dataset:
    """Load into memory, with text as Python strings and numbered draws, whatever version wrote the files."""
    return number_draws(_convert(node.load(), "TU", object))


def _convert(node: xr.Dataset, kinds: str, dtype: Any) -> xr.Dataset:
    text = {name: variable.astype(dtype) for name, variable in node.variables.items() if variable.dtype.kind in kinds}
    coords = {name: variable for name, variable in text.items() if name in node.coords}
    return node.assign({name: text[name] for name in text.keys() - coords.keys()}).assign_coords(coords)
