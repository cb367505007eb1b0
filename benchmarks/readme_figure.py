"""Draw the picture of the README: people on twelve scanners before and after harmonizing, with the true bias beside it.

    python benchmarks/readme_figure.py docs/figures/readme.png

The study is simulated (SRPBS design: nine travelers on twelve scanners, 805 people scanned once), so that each person's true
level and each scanner's true bias are known. Its sizes are those of cortical thickness in ON-Harmony (docs/recovery.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bayesharm
from bayesharm.reporting.plots.style import STYLE

SIZES = {"participant": 0.143, "measurement": 0.042, "noise": 0.0716}  # mm
N_FEATURES, N_PEOPLE, Z90 = 200, 4, 1.645
COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito
BIAS_COLOR = "#D55E00"


def visit_means(scans: pd.DataFrame, values: np.ndarray, order: list[str]) -> pd.DataFrame:
    """Return the mean over a person's scans on each scanner; person × scanner."""
    return pd.Series(values).groupby([scans.participant_id, scans.scanner]).mean().unstack()[order]


def draw_people(ax: Axes, visits: pd.DataFrame, levels: pd.Series, sd: pd.Series | None, title: str, remark: str) -> None:
    """Draw each person's values over the scanners beside the person's true level."""
    place = np.arange(visits.shape[1])
    for color, (person, row) in zip(COLORS, visits.iterrows(), strict=True):
        ax.axhline(levels[person], color=color, linewidth=6, alpha=0.22, zorder=0)
        ax.plot(place, row, color=color, linewidth=1, alpha=0.7)
        if sd is not None:
            ax.errorbar(place, row, yerr=Z90 * sd, fmt="none", ecolor=color, elinewidth=1.6, alpha=0.8)
        ax.scatter(place, row, color=color, s=20, zorder=3)
    ax.set_title(title)
    ax.text(0.98, 0.02, remark, transform=ax.transAxes, ha="right", fontsize=8, color="0.35")
    name_scanners(ax, list(visits.columns))


def draw_bias(ax: Axes, bias: pd.DataFrame) -> None:
    """Draw the posterior of each scanner's bias (mean, 90% interval) beside its true value."""
    place = np.arange(len(bias))
    ax.axhline(0, color="0.8", linewidth=1, zorder=0)
    ax.errorbar(
        place,
        bias["mean"],
        yerr=Z90 * bias["sd"],
        fmt="o",
        color=BIAS_COLOR,
        markersize=5,
        elinewidth=2,
        label="posterior mean, 90% interval",
    )
    ax.scatter(place, bias["true"], marker="D", s=22, facecolor="white", edgecolor="black", zorder=4, label="truth")
    ax.set_title("Removed: the bias of each scanner")
    ax.legend(loc="upper left", fontsize=8)
    name_scanners(ax, list(bias.index))


def name_scanners(ax: Axes, names: list[str]) -> None:
    """Label the horizontal axis with the scanners."""
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    ax.tick_params(length=0)


def main() -> None:
    """Simulate, fit, harmonize and draw."""
    study = bayesharm.simulate_srpbs(N_FEATURES, seed=1, sizes=SIZES)
    dataset = bayesharm.load_dataset(study.scans, study.features)
    posterior = bayesharm.fit(dataset, "traveling_and_cohort", seed=1)
    harmonized = bayesharm.harmonize(posterior, dataset)

    true = study.truth.effects["measurement"] - study.truth.effects["measurement"].mean()
    k = int((true**2).mean().to_numpy().argmax())  # the feature with the largest scanner bias
    effect = posterior.effect("measurement").isel(feature=k)
    bias = pd.DataFrame({"mean": effect["mean"], "sd": effect["sd"], "true": true.loc[effect.scanner.values].iloc[:, k]})
    bias = bias.set_axis(effect.scanner.values).sort_values("true")

    levels = study.truth.effects["participant"].iloc[:, k].sort_values()
    levels = levels.iloc[np.linspace(0, len(levels) - 1, N_PEOPLE).round().astype(int)]
    center = study.truth.mean[k] + study.truth.effects["measurement"].mean().iloc[k]
    order = list(bias.index)
    before = visit_means(study.scans, study.features[:, k] - center, order).loc[levels.index]
    after = visit_means(study.scans, harmonized.mean[:, k] - center, order).loc[levels.index]
    error = [float(np.sqrt(np.mean((visits.sub(levels, axis=0)) ** 2))) for visits in (before, after)]
    print(f"root mean square distance from the true level: {error[0]:.3f} mm before, {error[1]:.3f} mm after")

    with rc_context(STYLE | {"axes.titlesize": 9.5}):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        draw_people(axes[0], before, levels, None, "Before: four people, twelve scanners", "bands: true levels")
        remark = "bars: 90% interval of the correction"
        draw_people(axes[1], after, levels, bias["sd"], "After: scanner bias gone, levels kept", remark)
        draw_bias(axes[2], bias)
        axes[1].sharey(axes[0])
        axes[0].set_ylabel("cortical thickness, mm from the mean")
        axes[2].set_ylabel("bias, mm")
        figure.savefig(sys.argv[1], dpi=130, metadata={"Software": None})
    size = Path(sys.argv[1]).stat().st_size
    print(f"{sys.argv[1]}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
