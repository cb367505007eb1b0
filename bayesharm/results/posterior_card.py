"""The card that shows a posterior in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bayesharm.data.finding import finding_from_dict
from bayesharm.notebook import make_card

SHARES = (0.5, 0.05, 0.95)


def posterior_card(tree: xr.DataTree, run: Mapping[str, Any], model: str, notice: str) -> str:
    """Return the card as HTML; it reads small arrays only.

    Parameters
    ----------
    tree : DataTree
        The results tree of the run.
    run : mapping
        Its record.
    model : str
    notice : str
        Of a preview; else empty.
    """
    scales = tree["scales"].to_dataset()
    converged, n_features = int(scales["converged"].values.astype(bool).sum()), scales.sizes["feature"]
    facts = {
        "scans": run["n_scans"],
        "scanners": tree["design"].sizes["scanner"],
        "features": n_features,
        "converged": "all features" if converged == n_features else f"{converged:,} of {n_features:,} features",
        "effects": sorted(tree["effects"].children),
        "seed": run["seed"],
    }
    tables = {
        "Typical scale of each source, in sd of a feature, and its spread over features (90% intervals)": _sources(tree),
        "Scanners": tree["design"].to_dataset().drop_dims("feature", errors="ignore").to_dataframe(),
    }
    caveats = [finding_from_dict(record).sentence for record in run.get("findings", ())] + list(run["notes"])
    return make_card(f"Posterior of {model}", facts, tables, folded={"Caveats": caveats}, notice=notice)


def _sources(tree: xr.DataTree) -> pd.DataFrame:
    hyper: Any = tree["hyper"].to_dataset()
    columns: dict[str, np.ndarray] = {}
    for name, draws in (("typical", np.exp(hyper["eta"])), ("spread", hyper["omega"])):
        quantiles = draws.quantile(SHARES, ("chain", "draw")).values
        columns |= dict(zip((name, f"{name}_q05", f"{name}_q95"), quantiles, strict=True))
    return pd.DataFrame(columns, index=pd.Index(hyper["family"].values, name="source"))
