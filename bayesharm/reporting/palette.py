"""Colors of the families of effects: the same in every figure, table and report.

The palette is that of Okabe and Ito, which color-blind people can distinguish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bayesharm.model.labels import Scale

COLORS = {
    "measurement": "#D55E00",
    "site": "#D55E00",
    "participant": "#0072B2",
    "sampling": "#009E73",
    "disorder": "#CC79A7",
    "covariate": "#F0E442",
    "noise": "#7F7F7F",
}
OTHERS = ("#E69F00", "#56B4E9", "#A6761D", "#332288", "#117733")
BEFORE, AFTER = COLORS["measurement"], COLORS["participant"]
PALE = 0.35  # opacity of what rests more on the prior than on the data


def family_colors(labels: Iterable[str], scales: Mapping[str, Scale] | None = None) -> list[str]:
    """Return the color of each label; scales of the same family share its color.

    Parameters
    ----------
    labels : iterable of str
        Families, or printed labels of scales.
    scales : mapping, optional
        Family and group of each label of a scale.
    """
    families = [scales[label].family if scales and label in scales else label for label in labels]
    others = dict.fromkeys(family for family in families if family not in COLORS)
    colors = COLORS | {family: OTHERS[k % len(OTHERS)] for k, family in enumerate(others)}
    return [colors[family] for family in families]
