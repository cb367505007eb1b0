"""Sources, likeness of scanners and figures of ON-Harmony: thickness and the edges of a connectome.

BAYESHARM_DATA=folder python benchmarks/onharmony.py --figures docs/figures --out table.md
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from recovery import publish

from bayesharm import fetch_onharmony, fit, load_dataset, scanner_similarity, variance_components
from bayesharm.cli.demo.onharmony import EDGES, ONHARMONY_COLUMNS, THICKNESS
from bayesharm.reporting.plots import plot_dendrogram, plot_sources, save_figure


def with_interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:#.3g} ({row[f'{name}_q05']:#.3g} to {row[f'{name}_q95']:#.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="folder for figures, which are replaced")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table, sources, splits = pd.read_csv(fetch_onharmony(), encoding="utf-8-sig"), [], []
    for name, select in (("thickness", THICKNESS), ("edges", EDGES)):
        dataset = load_dataset(table, columns=ONHARMONY_COLUMNS, select=select, missing="drop-features")
        posterior = fit(dataset, "traveling", seed=1)
        found, alike = variance_components(posterior), scanner_similarity(posterior)
        for family, row in found.families.iterrows():
            share = {"contribution": f"{row.contribution:.2%} ({row.contribution_q05:.2%} to {row.contribution_q95:.2%})"}
            sizes = {size: with_interval(row, size) for size in ("tau", "finite_sd")}
            sources.append({"measures": name, "features": len(found.features), "source": family} | sizes | share)
        groups = alike.splits.iloc[:-1]
        splits += [{"measures": name, **row} for row in groups.to_dict("records")]
        if options.figures:
            options.figures.mkdir(parents=True, exist_ok=True)
            for what, figure in (("sources", plot_sources(posterior)), ("scanners", plot_dendrogram(posterior))):
                file = options.figures / f"onharmony_{name}_{what}.png"
                file.unlink(missing_ok=True)
                save_figure(figure, file)
    made_with = f"ON-Harmony, model traveling, seed 1, bayesharm {version('bayesharm')}"
    publish(pd.DataFrame(sources), made_with, options.out)
    publish(pd.DataFrame(splits), made_with, options.out and options.out.with_suffix(".splits.md"))


if __name__ == "__main__":
    main()
