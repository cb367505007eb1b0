"""Tables and pictures of `benchmarks/calibration.py`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

# Names of the PITs begin with these: heading of the column, title of the picture's panel
KINDS = {
    "eta": "eta",
    "omega": "omega",
    "scale": "scale",
    "effect": "effect",
    "finite_sd": "size",
    "contribution": "share",
    "mean tau": "mean scale",
    "mean finite_sd": "mean size",
    "mean contribution": "mean share",
    "level": "level",
}
IN_REPORTS = {
    "mean ": "means over features",
    "level ": "means over features",
    "scale ": "scales",
    "effect ": "effects",
    "finite_sd ": "sizes and shares",
    "contribution ": "sizes and shares",
    "harmonized": "harmonized values",
    "": "hyperparameters",
}
OTHER = "others"  # quantities without a family: ratios of scanners, correlations, harmonized values
BAND = 0.95


def split_name(name: str) -> tuple[str, str]:
    """Return kind and family of a quantity."""
    kind = next((kind for kind in sorted(KINDS, key=len, reverse=True) if name.startswith(f"{kind} ")), "")
    return (kind, name.removeprefix(f"{kind} ")) if kind else (OTHER, name)


def tabulate(rows: list[dict[str, Any]]) -> str:
    """Tabulate the coverage of 90% intervals by family and kind, and summarize the tests of uniformity, in Markdown.

    Older datasets may lack a quantity. Its coverage is that of the others, and it is not tested for uniformity.
    """
    inside, pit = (pd.DataFrame([row[name] for row in rows]) for name in ("inside", "pit"))
    is_one = (inside.isin([0, 1]) | inside.isna()).all()  # a single interval in each dataset: the spread of a right one
    spread = inside.std().where(~is_one, 0.3)
    mean, error = 100 * inside.mean(), 100 * spread / np.sqrt(inside.count())
    cells = {
        name: f"{mean[name]:.0f}" if abs(mean[name] - 90) < 3 * error[name] else f"**{mean[name]:.0f}**"
        for name in mean.index
    }
    table: dict[str, dict[str, str]] = {}
    for name in mean.index:
        kind, family = split_name(name)
        if kind != OTHER:
            table.setdefault(family, {})[kind] = cells[name]
    lines = ["| family | " + " | ".join(KINDS.values()) + " |", "|" + "---|" * (1 + len(KINDS))]
    lines += [f"| {family} | " + " | ".join(row.get(kind, "") for kind in KINDS) + " |" for family, row in table.items()]
    others = [f"{name} {cells[name]}" for name in mean.index if split_name(name)[0] == OTHER]
    lines += [
        "",
        f"Others: {', '.join(others)}. Standard errors: {error.quantile(0.1):.1f} to {error.quantile(0.9):.1f}.",
        _say_uniform(uniformity(pit.dropna(axis=1)), len(rows)),
        f"Seconds of a processor for a fit: {np.median([row['seconds'] for row in rows]):.1f} (median); converged features: "
        f"{np.mean([row['converged'] for row in rows]):.1%}; effective over all features: "
        f"{np.mean([row['independent'] for row in rows]):.2f}.",
    ]
    return "\n".join(lines)


def _say_uniform(p: pd.Series, n: int) -> str:
    """Say how many quantities fail the test of uniformity."""
    return (
        f"Uniformity over {n} datasets, {len(p)} quantities: {(p < 0.05).sum()} with p < 0.05, {0.05 * len(p):.1f} "
        f"expected; smallest p × {len(p)}: {min(1, len(p) * p.min()):.2g} ({p.idxmin()})."
    )


def summarize_coverage(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarize the coverage of 90% intervals, by what users read: hyperparameters, scales, effects and so on."""
    inside = pd.DataFrame([row["inside"] for row in rows])
    names = [next(words for start, words in IN_REPORTS.items() if name.startswith(start)) for name in inside]
    coverage = inside.mean().groupby(names).mean()
    return {
        "datasets": len(rows),
        "date": str(datetime.date.today()),
        "coverage": {name: round(float(value), 3) for name, value in coverage.items()},
    }


def uniformity(pit: pd.DataFrame) -> pd.Series:
    """Return the p-value of each quantity's PITs, (dataset, quantity): the Cauchy combination of pointwise tests."""
    import arviz_stats  # noqa: F401  the accessor

    values = xr.DataArray(np.clip(pit.to_numpy(), 1e-9, 1 - 1e-9), dims=["sample", "quantity"])
    p, *_ = values.azstats.uniformity_test(dim="sample", method="pot_c")
    return pd.Series(np.asarray(p), pit.columns)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the Δ-ECDF of all quantities, a panel for each kind and a line for each family, over the simultaneous band."""
    import matplotlib

    matplotlib.use("agg")
    from arviz_plots import plot_ecdf_pit
    from arviz_stats.ecdf_utils import ecdf_pit

    pit = pd.DataFrame([row["pit"] for row in rows]).dropna(axis=1)
    uniform = (np.arange(len(pit)) + 0.5) / len(pit)  # for families that a kind lacks; these lines are hidden below
    names = {split_name(name): name for name in pit}
    titles = {kind: title for kind, title in (KINDS | {OTHER: OTHER}).items() if kind in {kind for kind, _ in names}}
    lines = list(dict.fromkeys(line for _, line in names))
    panels = {
        title: (("line", "sample"), [pit[names[kind, line]] if (kind, line) in names else uniform for line in lines])
        for kind, title in titles.items()
    }
    colors = [matplotlib.colormaps["tab20"](k) for k in (*range(0, 20, 2), *range(1, 20, 2))]
    group = xr.Dataset(panels, {"line": lines, "sample": np.arange(len(pit))})
    plot = plot_ecdf_pit(
        xr.DataTree.from_dict({"/prior_sbc": group}), sample_dims=["sample"], method="pot_c", backend="matplotlib",
        cols=["__variable__"], col_wrap=5, aes={"color": ["line"]}, color=colors,
        aes_by_visuals={"ecdf_lines": ["color"]}, figure_kwargs={"figsize": (11, 5), "layout": "constrained"},
        visuals={"p_value_text": False, "suspicious_points": False, "ecdf_lines": {"linewidth": 1}},
    )  # fmt: skip
    x, _, low, high = ecdf_pit(uniform, BAND, 2000)
    for kind, title in titles.items():
        axes = plot.viz["plot"][title].item()
        axes.fill_between(x, low - x, high - x, color="0.9", zorder=-1, step="post")
        for line in lines:
            if (kind, line) not in names:
                plot.viz["ecdf_lines"][title].sel(line=line).item().set_visible(False)
    figure = plot.viz["figure"].item()
    figure.supxlabel("x: share of the posterior below the true value (PIT)", fontsize=9)
    figure.supylabel("share of the datasets with a PIT below x, minus x", fontsize=9)
    handles = [matplotlib.lines.Line2D([], [], color=color, label=line) for color, line in zip(colors, lines, strict=False)]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=80)
