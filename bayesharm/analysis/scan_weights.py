"""Weights of the scans over features, with Student-t noise: the scans that hardly count come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.results.console import make_table
from bayesharm.results.posterior import Posterior

if TYPE_CHECKING:
    from rich.table import Table


def list_scan_weights(posterior: Posterior) -> pd.DataFrame | None:
    """List the weights of the scans by ``scan_id``, smallest first; None with Gaussian noise.

    Returns
    -------
    DataFrame
        `scanner`; `mean_weight`, the mean over features of the posterior mean of the weight; `low_share`, the share of
        features in which that is below 0.3.
    """
    if "scan_weights" not in posterior.tree.children:
        return None
    node = posterior.tree["scan_weights"].to_dataset()
    columns = {name: node[name].values for name in ("scanner", "mean_weight", "low_share")}
    table = pd.DataFrame(columns, index=pd.Index(node["scan"].values, name="scan_id"))
    return table.sort_values("mean_weight", kind="stable")


def describe_tails(posterior: Posterior) -> str:
    """Describe the tails of the noise in a sentence."""
    share, df = (posterior.hyper[name].values for name in ("tail_share", "tail_df"))
    (low, middle, high), degrees = np.quantile(share, [0.05, 0.5, 0.95]), np.quantile(df, [0.05, 0.5, 0.95])
    return (
        f"Noise: Gaussian but for {middle:.1%} of the values ({low:.1%} to {high:.1%}), whose noise is Student-t with "
        f"{degrees[1]:.1f} degrees of freedom ({degrees[0]:.1f} to {degrees[2]:.1f})."
    )


def scan_weights_table(weights: pd.DataFrame, tails: str, max_rows: int = 10) -> Table:
    """Render the scans with the smallest weights.

    Parameters
    ----------
    weights : DataFrame
        From :func:`list_scan_weights`.
    tails : str
        From :func:`describe_tails`.
    max_rows : int
    """
    table = make_table(
        f"Scans with the smallest weights ({min(max_rows, len(weights))} of {len(weights)})",
        f"{tails} Weight: the noise variance of a value is divided by it; mean over features. Low: share of features with a "
        "weight below 0.3.",
        ["scan", "scanner", "weight", "low"],
    )
    for scan, row in weights.head(max_rows).iterrows():
        table.add_row(str(scan), str(row.scanner), f"{row.mean_weight:.2f}", f"{row.low_share:.0%}")
    return table
